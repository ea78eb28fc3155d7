//! Forms: bounded in size and time, and accepted only with the token of their session.

use std::time::Duration;

use axum::{
    Form as AxumForm,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;

use super::{Console, error::PageError, session::is_equal, user::User};

/// The maximum size of a form of a user who is signed in; a test message is part of one.
const MAX_FORM: usize = 512 * 1024;
/// The path of the form that changes a dead letter.
pub(super) const EDITED_LETTER: &str = "/dead-letters/edited";
/// The largest body of that form, as of the command: with the rest of its request, it is smaller than the largest request
/// of the service.
pub(super) const MAX_EDITED_BODY: usize = 1_000_000;
/// The maximum size of that form, in which a byte of text is up to three bytes, and a line end is six.
const MAX_EDITED_FORM: usize = 6 * MAX_EDITED_BODY + 16 * 1024;
/// The same for the sign-in form.
const MAX_SIGN_IN: usize = 16 * 1024;

/// A form of a user.
pub(super) struct Form {
    pub(super) user: User,
    fields: Fields,
}

/// The fields of a form, in its order.
pub(super) struct Fields(Vec<(String, String)>);

impl Form {
    /// A field's text without surrounding white space; empty if the field is missing.
    pub(super) fn text(&self, name: &str) -> &str {
        self.fields.text(name)
    }

    /// A field's text exactly as it was entered.
    pub(super) fn raw(&self, name: &str) -> &str {
        self.fields.raw(name)
    }

    /// All fields of this name.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let of_name = self.fields.0.iter().filter(|(field, _)| field == name);
        of_name.map(|(_, value)| value.clone()).collect()
    }

    /// Whether a box is checked.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.0.iter().any(|(field, _)| field == name)
    }

    /// A number; 0 if the field is empty.
    pub(super) fn number<T: std::str::FromStr + Default>(&self, name: &str) -> Result<T, PageError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(T::default());
        }
        text.parse().map_err(|_| PageError::invalid(format!("{name}: must be a whole number that is not negative")))
    }

    /// A duration such as `30s`; `None` if the field is empty.
    pub(super) fn duration(&self, name: &str) -> Result<Option<prost_types::Duration>, PageError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let duration = crate::units::parse_duration(text).and_then(|duration| duration.try_into().ok());
        let what = || PageError::invalid(format!("{name}: must be {}", crate::units::DURATION_FORM));
        duration.map(Some).ok_or_else(what)
    }

    /// Refuses the form unless this name was typed into it.
    pub(super) fn confirmed(&self, name: &str) -> Result<(), PageError> {
        match self.text("confirm") == name {
            true => Ok(()),
            false => Err(PageError::invalid(format!("nothing was changed: type {name} to confirm"))),
        }
    }
}

impl Fields {
    pub(super) fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    pub(super) fn raw(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }
}

impl FromRequest<Console> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, console: &Console) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let user = <User as FromRequestParts<Console>>::from_request_parts(&mut parts, console).await?;
        let request = Request::from_parts(parts, body);
        let max = if request.uri().path() == EDITED_LETTER { MAX_EDITED_FORM } else { MAX_FORM };
        let fields = read(request, max, user.body_timeout()).await.map_err(PageError::into_response)?;
        if !is_equal(fields.raw("csrf"), &user.session().csrf) {
            let text = "the form does not belong to this session; go back, reload the page, and send it again";
            return Err(PageError::new(StatusCode::FORBIDDEN, "FORM_OF_ANOTHER_SESSION", text).into_response());
        }
        Ok(Self { user, fields })
    }
}

impl Console {
    /// The fields of the sign-in form, for which there is no session yet.
    pub(super) async fn sign_in_form(&self, request: Request) -> Result<Fields, PageError> {
        read(request, MAX_SIGN_IN, self.0.anonymous_body_timeout).await
    }
}

async fn read(request: Request, max: usize, timeout: Duration) -> Result<Fields, PageError> {
    let (parts, body) = request.into_parts();
    let late = || PageError::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", "the form did not arrive in time");
    let body = tokio::time::timeout(timeout, to_bytes(body, max)).await.map_err(|_| late())?;
    let large = |_| {
        let text = format!("the form is larger than {} KiB, or it did not arrive completely", max / 1024);
        PageError::new(StatusCode::PAYLOAD_TOO_LARGE, "FORM_TOO_LARGE", text)
    };
    let body = body.map_err(large)?;
    let mut request = Request::from_parts(parts, Body::from(body));
    // The size was checked above, against a limit that may be larger than that of axum.
    DefaultBodyLimit::disable().apply(&mut request);
    match AxumForm::from_request(request, &()).await {
        Ok(AxumForm(fields)) => Ok(Fields(fields)),
        Err(_) => Err(PageError::invalid("the request is not a form")),
    }
}
