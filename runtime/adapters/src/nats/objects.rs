//! Documents and artifacts in a JetStream object store bucket, named by the hash of their content.
//!
//! Never overwrites: the same name is the same content, so storing it again costs one look. Whole objects in memory, so they are
//! bounded.

use std::time::Duration;

use amphi_ports::{ObjectStore, StoreError};
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::object_store::{Config, GetErrorKind, InfoErrorKind, ObjectInfo, ObjectStore as Bucket};
use async_nats::jetstream::stream::StorageType;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;

use super::{REQUEST_TIMEOUT, damaged, jetstream_context, store_error};

/// Largest object, in bytes.
pub const OBJECT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long moving one object may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);

/// The object store. Cheap to clone.
#[derive(Clone)]
pub struct NatsObjectStore {
    bucket: Bucket,
    /// Where earlier builds kept the same objects; read from, never written.
    former: Option<Bucket>,
}

impl NatsObjectStore {
    /// Opens the bucket, creating it with `replicas` copies if it is missing.
    pub async fn open(client: &Client, replicas: usize) -> Result<Self, StoreError> {
        let context = jetstream_context(client, REQUEST_TIMEOUT);
        let bucket = match context.get_object_store(subjects::OBJECTS_BUCKET).await {
            Ok(bucket) => bucket,
            Err(_) => create(&context, replicas).await?,
        };
        Ok(Self { bucket, former: None })
    }

    /// Also finds what earlier builds kept in the bucket of another account.
    #[must_use]
    pub fn with_former(mut self, former: &Self) -> Self {
        self.former = Some(former.bucket.clone());
        self
    }

    async fn info(&self, name: &str) -> Result<Option<ObjectInfo>, StoreError> {
        match self.bucket.info(name).await {
            Ok(info) => Ok(Some(info).filter(|info| !info.deleted)),
            Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(store_error(format!("looking for object {name}"), error)),
        }
    }

    async fn put_object(&self, name: &str, bytes: Bytes) -> Result<(), StoreError> {
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(damaged(format!("storing object {name}: {} bytes are more than {OBJECT_BYTES_MAX}", bytes.len())));
        }
        if self.info(name).await?.is_some_and(|info| info.size == bytes.len()) {
            return Ok(());
        }
        let mut content: &[u8] = &bytes;
        let put = tokio::time::timeout(TRANSFER_TIMEOUT, self.bucket.put(name, &mut content)).await;
        put.map_err(|e| store_error(format!("storing object {name}"), e))?.map_err(|e| store_error(format!("storing object {name}"), e))?;
        Ok(())
    }

    async fn get_object(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let mut found = self.bucket.get(name).await;
        if let Some(former) = &self.former
            && found.as_ref().is_err_and(|error| error.kind() == GetErrorKind::NotFound)
        {
            found = former.get(name).await;
        }
        let mut object = match found {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(store_error(format!("reading object {name}"), error)),
        };
        let size = object.info.size;
        if size > OBJECT_BYTES_MAX {
            return Err(damaged(format!("reading object {name}: its {size} bytes are more than {OBJECT_BYTES_MAX}")));
        }
        let mut content = Vec::with_capacity(size);
        let read = tokio::time::timeout(TRANSFER_TIMEOUT, object.read_to_end(&mut content)).await;
        read.map_err(|e| store_error(format!("reading object {name}"), e))?
            .map_err(|e| store_error(format!("reading object {name}"), e))?;
        if content.len() != size {
            return Err(damaged(format!("reading object {name}: {} of {size} bytes are there", content.len())));
        }
        Ok(Some(content.into()))
    }
}

impl NatsObjectStore {
    async fn delete_object(&self, name: &str) -> Result<(), StoreError> {
        if self.info(name).await?.is_none() {
            return Ok(());
        }
        self.bucket.delete(name).await.map_err(|e| store_error(format!("removing object {name}"), e))
    }
}

impl ObjectStore for NatsObjectStore {
    fn put<'a>(&'a self, name: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.put_object(name, bytes).boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.get_object(name).boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.delete_object(name).boxed()
    }
}

async fn create(context: &Context, replicas: usize) -> Result<Bucket, StoreError> {
    let config = Config {
        bucket: subjects::OBJECTS_BUCKET.to_owned(),
        description: Some("Amphitheatre: documents and artifacts by content hash".to_owned()),
        storage: StorageType::File,
        num_replicas: replicas,
        // Archived journals are JSON; the server makes them a fraction of their size.
        compression: true,
        ..Default::default()
    };
    match context.create_object_store(config).await {
        Ok(bucket) => Ok(bucket),
        // Another node was faster.
        Err(error) => match context.get_object_store(subjects::OBJECTS_BUCKET).await {
            Ok(bucket) => Ok(bucket),
            Err(_) => Err(store_error(format!("creating the object store {}", subjects::OBJECTS_BUCKET), error)),
        },
    }
}
