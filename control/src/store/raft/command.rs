//! What is replicated, and what the state machine answers.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::codec::{self, Reader, Writer};
use crate::store::{Op, cache::Outcome};

/// A batch of transactions: one log entry, one fsync. Cheap to clone, as openraft passes it around.
#[derive(Clone)]
pub struct Command(Arc<Vec<Vec<Op>>>);

impl Command {
    pub fn new(transactions: Vec<Vec<Op>>) -> Self {
        Self(Arc::new(transactions))
    }

    pub fn transactions(&self) -> &[Vec<Op>] {
        &self.0
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Command({} transactions)", self.0.len())
    }
}

/// What became of each transaction of a [`Command`], in order; empty for entries that carry none.
#[derive(Debug, Default)]
pub struct Reply(pub Vec<Outcome>);

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut writer = Writer::default();
        codec::write_command(&mut writer, self, None);
        serializer.serialize_bytes(&writer.0)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        codec::read_command(&mut Reader::new(bytes.into()), None).map_err(D::Error::custom)
    }
}

impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut writer = Writer::default();
        codec::write_reply(&mut writer, self);
        serializer.serialize_bytes(&writer.0)
    }
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        codec::read_reply(&mut Reader::new(bytes.into())).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        Change, Fingerprint, Precondition, Revision, Store,
        tests::{delete, key, put},
    };

    fn again<T: Serialize + for<'de> Deserialize<'de>>(value: &T) -> T {
        serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
    }

    #[test]
    fn a_command_survives_its_encoding() {
        let check = Op { key: key("c"), precondition: Precondition::At(Revision(9)), change: Change::Check };
        let like = Precondition::Like(Fingerprint([7; 16]));
        let built = Op { key: key("e"), precondition: like, change: Change::Delete };
        let command = Command::new(vec![
            vec![put("a", "1", Precondition::Absent), delete("b", Precondition::Present)],
            vec![],
            vec![check, put("d", "é", Precondition::Any), built],
        ]);
        let decoded = again(&command);
        assert_eq!(format!("{:?}", decoded.transactions()), format!("{:?}", command.transactions()));
    }

    #[tokio::test]
    async fn a_reply_survives_its_encoding() {
        let store = Store::in_memory();
        let written = store.transact(vec![put("a", "1", Precondition::Any)]).await.unwrap();
        let refusal = crate::store::cache::Refusal { index: 3, current: written[0].clone() };
        let reply = Reply(vec![Ok(vec![None, written[0].clone()]), Err(refusal), Ok(vec![])]);
        let decoded = again(&reply);
        assert_eq!(format!("{decoded:?}"), format!("{reply:?}"));
        let entry = decoded.0[0].as_ref().unwrap()[1].as_ref().unwrap();
        assert_eq!(entry.json, written[0].as_ref().unwrap().json);
    }

    #[test]
    fn malformed_bytes_are_refused() {
        let mut writer = Writer::default();
        let command = Command::new(vec![vec![put("a", "1", Precondition::Any)]]);
        codec::write_command(&mut writer, &command, None);
        for len in 0..writer.0.len() {
            let bytes = writer.0[..len].to_vec();
            assert!(codec::read_command(&mut Reader::new(bytes.into()), None).is_err(), "cut at {len}");
        }
    }
}
