//! The codec of live traffic between processes: bincode behind a versioned envelope. Nothing stored uses it.
//!
//! bincode is not self-describing and panics on hostile lengths without a limit, so the envelope names codec and schema, and every
//! call has a limit.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Value of [`crate::subjects::CODEC_HEADER`].
pub const BINCODE: &str = "bincode/1";

/// `A` `M`, codec 1 (bincode 2, standard configuration), schema of [`crate::PROTOCOL`].
const ENVELOPE: [u8; 4] = [b'A', b'M', 1, crate::PROTOCOL as u8];
/// Largest message, envelope included.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why bytes are no message of the wanted type.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Too short or not ours.
    #[error("the message does not begin with an envelope of this protocol")]
    Envelope,
    /// Another codec or schema.
    #[error("the message has codec {codec} and schema {schema}, this build reads 1 and {}", crate::PROTOCOL)]
    Version {
        /// Codec found.
        codec: u8,
        /// Schema found.
        schema: u8,
    },
    /// Larger than the limit.
    #[error("the message has {0} bytes, at most {MESSAGE_BYTES_MAX} are read")]
    TooLarge(usize),
    /// The body does not have the wanted shape.
    #[error("the message cannot be decoded")]
    Body(#[source] bincode::error::DecodeError),
    /// Bytes follow the body.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// Encodes a value of a type that only lives in live traffic.
///
/// # Panics
/// If the type cannot be encoded at all (a flattened or untagged one): a defect that every golden sample finds.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = ENVELOPE.to_vec();
    let body = bincode::serde::encode_to_vec(value, bincode::config::standard()).expect("types of live traffic can be encoded");
    bytes.extend(body);
    bytes
}

/// Decodes a message. Hostile input gives an error, never a panic or a large allocation.
///
/// # Errors
/// The envelope, the size or the body is not what is wanted.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let Some((head, body)) = bytes.split_at_checked(ENVELOPE.len()) else { return Err(CodecError::Envelope) };
    if head[..2] != ENVELOPE[..2] {
        return Err(CodecError::Envelope);
    }
    if head != ENVELOPE {
        return Err(CodecError::Version { codec: head[2], schema: head[3] });
    }
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let limited = bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(body, limited).map_err(CodecError::Body)?;
    if used == body.len() { Ok(value) } else { Err(CodecError::Trailing(body.len() - used)) }
}
