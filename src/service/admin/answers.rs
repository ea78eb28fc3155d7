//! Idempotency of creations: the response to a request id is kept for a day, for its caller alone. An id that is used again for another
//! request is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;

use super::{
    act::AdminContext,
    error::{Error, invalid},
    fields,
};
use crate::tenant::Administrator;

/// The answers to one request.
pub(super) struct IdempotencyCache<'a, Q> {
    pub(super) desk: &'a AdminContext,
    pub(super) who: &'a Administrator,
    /// The call.
    pub(super) method: &'static str,
    /// As the caller gave it; nothing is remembered when it is empty.
    pub(super) request_id: &'a str,
    /// What was asked for.
    pub(super) asked: Option<&'a Q>,
}

impl<Q: Message> IdempotencyCache<'_, Q> {
    /// The answer that was kept; an error when the id stood in a request for something else.
    pub(super) async fn find<A: Message + Default>(&self) -> Result<Option<A>, Error> {
        let Some(id) = fields::request_id(self.request_id)? else { return Ok(None) };
        let Some(kept) = self.desk.store.answered(self.who.caller().client(), self.method, id).await? else {
            return Ok(None);
        };
        let (asked, answer) = kept.split_once(' ').unwrap_or_default();
        if asked != self.asked() {
            return Err(invalid("request_id", "was used for another request in the last day; take a new one"));
        }
        // What cannot be read is asked again, which is harmless.
        Ok(STANDARD.decode(answer).ok().and_then(|bytes| A::decode(&*bytes).ok()))
    }

    /// Keeps the answer.
    pub(super) async fn keep(&self, answer: &impl Message) -> Result<(), Error> {
        let Some(id) = fields::request_id(self.request_id)? else { return Ok(()) };
        let kept = format!("{} {}", self.asked(), STANDARD.encode(answer.encode_to_vec()));
        Ok(self.desk.store.remember_answer(self.who.caller().client(), self.method, id, &kept).await?)
    }

    fn asked(&self) -> String {
        STANDARD.encode(self.asked.map(Message::encode_to_vec).unwrap_or_default())
    }
}
