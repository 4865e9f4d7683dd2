//! Small texts that are decided once for the whole cluster, in a key-value bucket: who writes first, decides.
//!
//! The bucket is made when it is first needed. Nothing depends on it for ever: a text is forgotten after 30 days.

use std::time::Duration;

use amphi_ports::{Pins, StoreError};
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::jetstream::kv::{Config, Store};
use async_nats::jetstream::stream::StorageType;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::{REQUEST_TIMEOUT, jetstream_context, store_error};

/// How long a text is kept.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes of the whole bucket; beyond, nothing more can be decided.
const BYTES_MAX: i64 = 64 * 1024 * 1024;

/// The bucket.
pub struct NatsPins {
    client: Client,
    replicas: usize,
    store: OnceCell<Store>,
}

impl NatsPins {
    /// Nothing is done before the first use.
    pub fn new(client: &Client, replicas: usize) -> Self {
        Self { client: client.clone(), replicas, store: OnceCell::new() }
    }

    /// Makes what is decided final for the server too: nobody who may write to the bucket can erase or change what is in it.
    ///
    /// # Errors
    /// This user may not change the bucket, or the server did not answer.
    pub async fn seal(&self) -> Result<(), StoreError> {
        self.store().await?;
        let context = jetstream_context(&self.client, REQUEST_TIMEOUT);
        super::objects::seal(&context, &format!("KV_{}", subjects::PINS_BUCKET), true).await
    }

    async fn store(&self) -> Result<&Store, StoreError> {
        self.store.get_or_try_init(|| self.open()).await
    }

    async fn open(&self) -> Result<Store, StoreError> {
        let context = jetstream_context(&self.client, REQUEST_TIMEOUT);
        if let Ok(store) = context.get_key_value(subjects::PINS_BUCKET).await {
            return Ok(store);
        }
        let config = Config {
            bucket: subjects::PINS_BUCKET.to_owned(),
            description: "Amphitheatre: what is decided once, such as the commit of an epic".to_owned(),
            history: 1,
            max_age: AGE_MAX,
            max_bytes: BYTES_MAX,
            max_value_size: 4096,
            storage: StorageType::File,
            num_replicas: self.replicas,
            ..Default::default()
        };
        match context.create_key_value(config).await {
            Ok(store) => Ok(store),
            // Another node was faster.
            Err(error) => match context.get_key_value(subjects::PINS_BUCKET).await {
                Ok(store) => Ok(store),
                Err(_) => Err(store_error(format!("creating the bucket {}", subjects::PINS_BUCKET), error)),
            },
        }
    }

    async fn read(&self, name: &str) -> Result<Option<String>, StoreError> {
        let found = self.store().await?.get(name).await;
        let found = found.map_err(|error| store_error(format!("reading what was decided about {name}"), error))?;
        Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn write(&self, name: &str, value: &str) -> Result<String, StoreError> {
        match self.store().await?.create(name, value.to_owned().into()).await {
            Ok(_) => Ok(value.to_owned()),
            // It stands there already, or our own write landed and its answer did not come.
            Err(error) => match self.read(name).await? {
                Some(decided) => Ok(decided),
                None => Err(store_error(format!("deciding {name}"), error)),
            },
        }
    }
}

impl Pins for NatsPins {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        self.read(name).boxed()
    }

    fn decide<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        self.write(name, value).boxed()
    }
}
