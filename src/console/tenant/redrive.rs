//! Sending dead letters again, with the progress on the page while it runs.
//!
//! The page is sent in parts and needs no script: the browser shows each part when it arrives, and the stylesheet hides
//! all progress except the latest.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use http::header::CONTENT_TYPE;
use maud::{Markup, PreEscaped, html};
use tokio::time::timeout;
use tonic::Streaming;

use crate::{
    console::{
        error::PageError,
        layout, page_memory,
        parts::{self, count, plural},
        user::User,
    },
    pb,
};

/// How long the page waits for the first report, so that an immediate refusal is an error page with its status.
const FIRST_REPORT: Duration = Duration::from_secs(1);
/// How often a session without reports is checked for its sign-out.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest time between two parts: a screen reader reads each of them.
const PART_INTERVAL: Duration = Duration::from_secs(1);
/// How many failures are kept and shown.
const MAX_FAILURES: usize = 20;
/// The place of the progress in the page. Text of others never contains it, because it is escaped.
const PLACE: &str = "<!--progress-->";

/// Sends dead letters again; the page leads back to this address.
pub(super) async fn send(
    user: User,
    request: pb::RedriveDeadLettersRequest,
    back: &str,
) -> Result<Response, PageError> {
    // Dropping the stream, as when the user leaves the page, stops the redrive after the messages in flight.
    let mut reports = user.calls().unlimited().topology().redrive_dead_letters(request).await?.into_inner();
    let mut progress = Progress::default();
    if let Ok(first) = timeout(FIRST_REPORT, reports.message()).await {
        progress.add(first?.unwrap_or_default());
    }
    let page = html! {
        section {
            (PreEscaped(PLACE))
            p { a href=(back) { "Back to the dead letters" } }
        }
    };
    let page = layout::page(&user, "Send again", page).0.into_string();
    let (start, end) = page.split_once(PLACE).unwrap_or((page.as_str(), ""));
    let start = format!("{start}<div class=\"steps\" role=\"status\">{}", progress.part().into_string());
    let run = Run { user, reports, progress, last_part: Instant::now(), page_end: end.to_owned() };
    let parts = stream::once(std::future::ready(start)).chain(stream::unfold(Some(run), next_part));
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    let mut response = ([(CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response();
    response.extensions_mut().insert(page_memory::SentInParts);
    Ok(response)
}

/// A redrive whose page is being sent.
struct Run {
    user: User,
    reports: Streaming<pb::RedriveDeadLettersResponse>,
    progress: Progress,
    last_part: Instant,
    page_end: String,
}

/// The next part of the page; none after its end.
async fn next_part(run: Option<Run>) -> Option<(String, Option<Run>)> {
    let mut run = run?;
    loop {
        match timeout(CHECK_INTERVAL, run.reports.message()).await {
            Ok(Ok(Some(report))) => run.progress.add(report),
            Ok(Ok(None)) => return Some((run.end(&html! {}), None)),
            Ok(Err(status)) => return Some((run.end(&PageError::from(status).note()), None)),
            Err(_) => {}
        }
        if run.user.is_signed_out().await {
            let why = html! { p.error role="alert" { "It was stopped, because you signed out." } };
            return Some((run.end(&why), None));
        }
        if run.last_part.elapsed() >= PART_INTERVAL {
            run.last_part = Instant::now();
            return Some((run.progress.part().into_string(), Some(run)));
        }
    }
}

impl Run {
    /// The result, why the redrive ended early, and the end of the page.
    fn end(&self, why: &Markup) -> String {
        let result = html! { (self.progress.result()) (PreEscaped("</div>")) (why) (self.progress.left()) };
        format!("{}{}", result.into_string(), self.page_end)
    }
}

/// What is known of a redrive.
#[derive(Default)]
struct Progress {
    last: pb::RedriveDeadLettersResponse,
    failures: Vec<pb::RedriveFailure>,
}

impl Progress {
    fn add(&mut self, mut report: pb::RedriveDeadLettersResponse) {
        self.failures.append(&mut report.failures);
        self.failures.truncate(MAX_FAILURES);
        self.last = report;
    }

    fn part(&self) -> Markup {
        let pb::RedriveDeadLettersResponse { redriven, failed, remaining, .. } = &self.last;
        if redriven + failed + remaining == 0 {
            return html! { p { "Reading the dead letters…" } };
        }
        html! {
            p {
                (count(*redriven)) " sent again so far, " (count(*remaining)) " left"
                @if *failed > 0 { ", " (count(*failed)) " failed" }
                ". Leaving this page stops it."
            }
        }
    }

    fn result(&self) -> Markup {
        html! {
            p.notice {
                (plural(self.last.redriven, "message was sent again", "messages were sent again")) " and confirmed by the broker."
            }
        }
    }

    fn left(&self) -> Markup {
        let pb::RedriveDeadLettersResponse { failed, remaining, .. } = &self.last;
        html! {
            @if *remaining > 0 { p { (plural(*remaining, "message is left", "messages are left")) ", which a further redrive sends." } }
            @if *failed > 0 {
                p.error role="alert" { (plural(*failed, "message could not be sent", "messages could not be sent")) "; they remain dead letters." }
                ul { @for failure in &self.failures { li { code { (parts::visible(&failure.dead_letter_id)) } " " (failure.reason) } } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_escaped_counted_and_shown_up_to_a_number() {
        let failure = |at| pb::RedriveFailure { dead_letter_id: format!("{at}"), reason: "<b>NO_ROUTE</b>".into() };
        let mut progress = Progress::default();
        for at in 0..3 {
            let failures = (0..10).map(|number| failure(at * 10 + number)).collect();
            progress.add(pb::RedriveDeadLettersResponse { redriven: 2, failed: (at + 1) * 10, remaining: 7, failures });
        }
        assert!(progress.part().into_string().contains("2 sent again so far, 7 left, 30 failed"));
        let shown = progress.left().into_string();
        assert!(shown.contains("30 messages could not be sent") && shown.contains("7 messages are left"), "{shown}");
        assert!(shown.contains("&lt;b&gt;NO_ROUTE") && !shown.contains("<b>"), "{shown}");
        assert_eq!(shown.matches("<li>").count(), MAX_FAILURES);
    }
}
