//! Signing keys.

use axum::response::Redirect;
use maud::html;

use super::{health, platform_only};
use crate::{
    console::{
        error::PageError,
        form::Form,
        layout,
        parts::{self, PageResult, Query},
        user::User,
    },
    pb,
};

pub(super) async fn page(user: User, query: Query) -> PageResult {
    platform_only(&user)?;
    let status = user.calls().admin().get_status(pb::GetStatusRequest {}).await.map(tonic::Response::into_inner);
    let content = html! {
        (parts::notice(&query))
        section {
            h2 { "Signing keys" }
            p {
                "Tokens are signed with the newest key. The public keys are served at " code { "/.well-known/jwks.json" }
                " of the operations listener."
            }
            div.tools {
                @let question = html! { p { "A new key signs within seconds. Tokens of the old key are accepted until they expire." } };
                (parts::confirmed_form(&user, "/keys/rotate", "Rotate the signing key", question, None, &[]))
                @let question = html! {
                    p { "For a key that has leaked: its tokens are refused within a second on every gateway, and the streams "
                        "opened with them end. This session ends too if its token was signed with it." }
                    label { "Key id (kid); empty: all keys" input name="key_id" autocomplete="off"; }
                };
                (parts::confirmed_form(&user, "/keys/revoke", "Revoke signing keys", question, None, &[]))
            }
        }
        @match status {
            Ok(status) => { (health::certificates(&status)) }
            Err(status) => { section { h2 { "Certificates" } (PageError::from(status).note()) } }
        }
    };
    Ok(layout::page(&user, "Keys and certificates", content))
}

pub(super) async fn rotate(form: Form) -> PageResult {
    let rotated = form.user.calls().admin().rotate_signing_key(pb::RotateSigningKeyRequest {}).await?.into_inner();
    let content = html! {
        section {
            p.notice role="status" { "The key " code { (rotated.key_id) } " signs as soon as every gateway knows it." }
            p { "Tokens of the previous key are accepted until " (parts::time(rotated.previous_expires.as_ref())) "." }
            p { a href="/keys" { "Back to the keys" } }
        }
    };
    Ok(layout::page(&form.user, "Signing key rotated", content))
}

pub(super) async fn revoke(form: Form) -> Result<Redirect, PageError> {
    let key_id = form.text("key_id").to_owned();
    let all = key_id.is_empty();
    form.user.calls().admin().revoke_signing_key(pb::RevokeSigningKeyRequest { key_id, all }).await?;
    Ok(Redirect::to("/keys?done=revoked"))
}
