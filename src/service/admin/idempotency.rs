//! Idempotency of creations: the response to a request id is stored for a day, for its caller only. An id that is used
//! again for a different request is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;

use super::{
    context::AdminContext,
    error::{Error, invalid},
    fields,
};
use crate::tenant::Administrator;

/// The stored response to one request.
pub(super) struct IdempotencyCache<'a, Q> {
    pub(super) context: &'a AdminContext,
    pub(super) who: &'a Administrator,
    /// The name of the call.
    pub(super) method: &'static str,
    /// The caller's request id; if it is empty, nothing is stored.
    pub(super) request_id: &'a str,
    /// The requested object.
    pub(super) requested: Option<&'a Q>,
}

impl<Q: Message> IdempotencyCache<'_, Q> {
    /// The stored response; an error if the id was used for a different request.
    pub(super) async fn find<A: Message + Default>(&self) -> Result<Option<A>, Error> {
        let Some(id) = fields::request_id(self.request_id)? else { return Ok(None) };
        let Some(stored) = self.context.store.answered(self.who.caller().client(), self.method, id).await? else {
            return Ok(None);
        };
        let (requested, answer) = stored.split_once(' ').unwrap_or_default();
        if requested != self.requested() {
            return Err(invalid("request_id", "was used for a different request within the last day; use a new one"));
        }
        // A response that cannot be decoded counts as missing; repeating the call is safe.
        Ok(STANDARD.decode(answer).ok().and_then(|bytes| A::decode(&*bytes).ok()))
    }

    /// Stores the response.
    pub(super) async fn keep(&self, answer: &impl Message) -> Result<(), Error> {
        let Some(id) = fields::request_id(self.request_id)? else { return Ok(()) };
        let stored = format!("{} {}", self.requested(), STANDARD.encode(answer.encode_to_vec()));
        Ok(self.context.store.remember_answer(self.who.caller().client(), self.method, id, &stored).await?)
    }

    fn requested(&self) -> String {
        STANDARD.encode(self.requested.map(Message::encode_to_vec).unwrap_or_default())
    }
}
