//! The frame of every page: title, navigation, content.

use maud::{DOCTYPE, Markup, html};

use super::{assets, error::PageError, parts::Html, user::User};

/// Sections of a platform administrator.
const PLATFORM: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/tenants", "Tenants"),
    ("/plans", "Plans"),
    ("/clients", "Administrators"),
    ("/audit", "Audit"),
    ("/keys", "Keys and certificates"),
    ("/health", "Health"),
];

/// Sections of a tenant's client.
const TENANT: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/queues", "Queues"),
    ("/exchanges", "Exchanges"),
    ("/topology", "Topology"),
    ("/dead-letters", "Dead letters"),
    ("/streams", "Streams"),
    ("/clients", "Clients"),
    ("/usage", "Usage"),
    ("/audit", "Audit"),
];

/// A page of a user.
pub(super) fn page(user: &User, title: &str, content: Markup) -> Html {
    document(Some(user), title, content)
}

/// A page without a user.
pub(super) fn open_page(title: &str, content: Markup) -> Html {
    document(None, title, content)
}

/// The page of an error.
pub(super) fn error_page(user: Option<&User>, error: &PageError) -> Html {
    document(user, "That did not work", error.render(user))
}

/// A page that redirects to this path of the console.
pub(super) fn bounce(path: &str) -> Html {
    Html(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content={ "0;url=" (path) };
                title { "Warrengate" }
            }
            body { a href=(path) { "Continue" } }
        }
    })
}

fn document(user: Option<&User>, title: &str, content: Markup) -> Html {
    Html(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Warrengate" }
                link rel="icon" href=(assets::address("icon.svg")) type="image/svg+xml";
                link rel="stylesheet" href=(assets::address("console.css"));
                script src=(assets::address("console.js")) defer {}
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                @if let Some(user) = user { (header(user)) }
                main #content tabindex="-1" {
                    h1 { (title) }
                    (content)
                }
            }
        }
    })
}

/// Whether the user may see a section.
fn is_useful(user: &User, section: &str) -> bool {
    match section {
        "/clients" => user.administers(),
        "/streams" | "/usage" | "/audit" => user.observes(),
        _ => true,
    }
}

fn header(user: &User) -> Markup {
    let sections = if user.is_platform() { PLATFORM } else { TENANT };
    let path = user.path();
    // A platform administrator finds a tenant's clients, whose ids have a dot, below the tenants.
    let path =
        if user.is_platform() && path.starts_with("/clients/") && path.contains('.') { "/tenants" } else { path };
    let is_current = |section: &str| path == section || (section != "/" && path.starts_with(&format!("{section}/")));
    html! {
        header {
            a.brand href="/" { "Warrengate" }
            nav aria-label="Sections" {
                ul {
                    @for (section, name) in sections.iter().filter(|(section, _)| is_useful(user, section)) {
                        li { a href=(section) aria-current=[is_current(section).then_some("page")] { (name) } }
                    }
                }
            }
            div.who {
                span {
                    @if user.is_platform() { "Platform · " } @else { "Tenant " b { (user.tenant()) } " · " }
                    (user.client_id())
                }
                form method="post" action="/sign-out" { (user.csrf()) button.quiet { "Sign out" } }
            }
        }
    }
}
