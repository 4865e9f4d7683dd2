//! Documents and artifacts in a JetStream object store bucket, named by the hash of their content.
//!
//! Never overwrites: the same name is the same content, so storing it again costs one look. Whole objects in memory, so they are
//! bounded.

use std::time::Duration;

use amphi_ports::{ObjectStore, StoreError};
use amphi_protocol::subjects;
use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::object_store::{Config, GetErrorKind, InfoErrorKind, ObjectInfo, ObjectOptions, ObjectStore as Bucket};
use async_nats::jetstream::stream::StorageType;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE as URL_SAFE;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;

use super::{REQUEST_TIMEOUT, damaged, jetstream_context, store_error};

/// Largest object, in bytes.
pub const OBJECT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long moving one object may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of an object that are one message.
const CHUNK_BYTES: usize = 128 * 1024;

/// The object store. Cheap to clone.
#[derive(Clone)]
pub struct NatsObjectStore {
    context: Context,
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
        Ok(Self { context, bucket, former: None })
    }

    /// Takes from everybody who may write there the means to erase what others wrote. For a bucket that nodes share which need not trust
    /// each other; from then on nothing is deleted there either.
    ///
    /// # Errors
    /// This user may not change the bucket, or the server did not answer.
    pub async fn seal(&self) -> Result<(), StoreError> {
        seal(&self.context, &stream_name(), false).await
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
        let put = tokio::time::timeout(TRANSFER_TIMEOUT, self.publish(name, bytes)).await;
        put.map_err(|e| store_error(format!("storing object {name}"), e))?.map_err(|e| store_error(format!("storing object {name}"), e))
    }

    /// As the library's own, but without the header that replaces what was under the name before: nothing was, and a bucket whose
    /// writers may replace is one whose writers may erase all of it.
    async fn publish(&self, name: &str, bytes: Bytes) -> Result<(), PublishError> {
        let nuid = uuid::Uuid::now_v7().simple().to_string();
        let chunks = format!("$O.{}.C.{nuid}", subjects::OBJECTS_BUCKET);
        let mut count = 0;
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            self.context.publish(chunks.clone(), chunk).await?.await?;
            count += 1;
        }
        let info = ObjectInfo {
            name: name.to_owned(),
            description: None,
            metadata: Default::default(),
            headers: None,
            options: Some(ObjectOptions { link: None, max_chunk_size: Some(CHUNK_BYTES) }),
            bucket: subjects::OBJECTS_BUCKET.to_owned(),
            nuid,
            size: bytes.len(),
            chunks: count,
            modified: None,
            digest: Some(format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(&bytes)))),
            deleted: false,
        };
        let body = serde_json::to_vec(&info).expect("an object's information has only string keys");
        let subject = format!("$O.{}.M.{}", subjects::OBJECTS_BUCKET, URL_SAFE.encode(name));
        self.context.publish(subject, body.into()).await?.await?;
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
        // Whoever may write to the bucket may put something else under the name.
        let hash = hex::encode(Sha256::digest(&content));
        if name.len() == hash.len() && name.bytes().all(|byte| byte.is_ascii_hexdigit()) && name != hash {
            return Err(damaged(format!("reading object {name}: its content is another one")));
        }
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

/// The stream below the bucket.
fn stream_name() -> String {
    format!("OBJ_{}", subjects::OBJECTS_BUCKET)
}

/// Forbids roll-ups in a bucket's stream, which erase what others wrote; with `once`, also a second write on the same subject.
pub(super) async fn seal(context: &Context, stream: &str, once: bool) -> Result<(), StoreError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| store_error(format!("sealing {stream}"), error);
    let found = context.get_stream(stream).await.map_err(|error| failed(error.into()))?;
    let mut config = found.cached_info().config.clone();
    if !config.allow_rollup && (!once || config.discard_new_per_subject) {
        return Ok(());
    }
    config.allow_rollup = false;
    config.discard_new_per_subject |= once;
    context.update_stream(config).await.map_err(|error| failed(error.into()))?;
    Ok(())
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
