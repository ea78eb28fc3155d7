//! The topology as a picture: exchanges, their bindings, and queues. The layout is computed here, so that it needs no
//! script.

mod arrange;

use maud::{Markup, html};

use self::arrange::{Edge, HEIGHT, Node, Picture, WIDTH};
use crate::{
    console::{
        layout,
        parts::{self, PageResult, Query, param},
        user::User,
    },
    pb,
};

/// How many queues, exchanges and bindings are read, and how many queues and exchanges the picture shows.
const MAX_READ: i32 = 1_000;
const MAX_SHOWN: usize = 150;

pub(super) async fn page(user: User, query: Query) -> PageResult {
    super::tenant_only(&user)?;
    let mut topology = user.calls().topology();
    let queues = pb::ListQueuesRequest { page_size: MAX_READ, page_token: String::new() };
    let queues = topology.list_queues(queues).await?.into_inner();
    let exchanges = pb::ListExchangesRequest { page_size: MAX_READ, page_token: String::new() };
    let exchanges = topology.list_exchanges(exchanges).await?.into_inner();
    let bindings = pb::ListBindingsRequest { page_size: MAX_READ, ..Default::default() };
    let bindings = topology.list_bindings(bindings).await?.into_inner();
    let names: Vec<_> =
        queues.queues.iter().filter_map(|entry| entry.queue.as_ref()).map(|queue| queue.name.clone()).collect();
    let exchanges_names: Vec<_> = exchanges.exchanges.iter().map(|exchange| exchange.name.clone()).collect();
    let picture = Picture::arrange(&exchanges_names, &names, &bindings.bindings, MAX_SHOWN);
    let is_cut = picture.hidden > 0
        || [&queues.next_page_token, &exchanges.next_page_token, &bindings.next_page_token]
            .iter()
            .any(|t| !t.is_empty());
    let content = html! {
        @if picture.nodes.is_empty() {
            section { (parts::empty("There are no exchanges and no queues yet.", html! {
                p { a href="/queues" { "Declare a queue" } ", or " a href="/exchanges" { "an exchange" } "." }
            })) }
        } @else {
            @if is_cut { p.notice { "The topology is larger than the picture: it shows a part. The lists of queues and exchanges have all." } }
            p.quiet { "From left to right: exchanges, and the queues that they route to. Each queue can also be reached by the default exchange, which is not drawn. " (super::queues::NOT_LISTED) }
            (drawing(&picture, zoom(&query)))
        }
    };
    Ok(layout::page(&user, "Topology", content))
}

/// The sizes of the picture, in percent.
const ZOOM: [i32; 5] = [50, 75, 100, 150, 200];

/// The size that the address selects.
fn zoom(query: &Query) -> i32 {
    param(query, "zoom").parse().ok().filter(|zoom| ZOOM.contains(zoom)).unwrap_or(100)
}

fn drawing(picture: &Picture, zoom: i32) -> Markup {
    let (width, height) = (picture.width, picture.height);
    html! {
        nav.pages aria-label="Size of the picture" {
            @for size in ZOOM {
                a.button href=(parts::address("/topology", &[("zoom", &size.to_string())])) aria-current=[(size == zoom).then_some("true")] { (size) " %" }
            }
        }
        div.topology tabindex="0" role="region" aria-label="Picture of the topology" {
            svg xmlns="http://www.w3.org/2000/svg" width=(width * zoom / 100) height=(height * zoom / 100) viewBox={ "0 0 " (width) " " (height) } {
                defs {
                    marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto" {
                        path d="M0 0 L8 4 L0 8 z" {}
                    }
                }
                @for edge in &picture.edges { (arrow(edge)) }
                @for node in &picture.nodes { (box_of(node)) }
            }
        }
    }
}

fn arrow(edge: &Edge) -> Markup {
    let Edge { from, lanes, to, label, title, label_offset } = edge;
    let mut line = format!("M{} {}", from.0, from.1);
    let mut at = *from;
    for (left, right) in lanes {
        line += &curve(at, *left);
        line += &format!(" H{}", right.0);
        at = *right;
    }
    line += &curve(at, *to);
    html! {
        path d=(line) marker-end="url(#end)" { title { (parts::visible(title)) } }
        text.key x=(to.0 - 14) y=(to.1 + label_offset) text-anchor="end" { (parts::visible(label)) title { (parts::visible(title)) } }
    }
}

/// A curve that begins and ends horizontally.
fn curve((x1, y1): (i32, i32), (x2, y2): (i32, i32)) -> String {
    let bend = (x2 - x1).abs().max(60) / 2;
    format!(" C{} {y1} {} {y2} {x2} {y2}", x1 + bend, x2 - bend)
}

fn box_of(node: &Node) -> Markup {
    let (x, y) = (node.x, node.y);
    let kind = if node.is_queue { "queue" } else { "exchange" };
    let path = if node.is_queue { "/queues/" } else { "/exchanges/" };
    let name = parts::visible(&node.name);
    html! {
        a.(kind) href={ (path) (parts::segment(&node.name)) } aria-label={ (kind) " " (name) } {
            title { (kind) " " (name) }
            rect x=(x) y=(y) width=(WIDTH) height=(HEIGHT) rx=(if node.is_queue { 4 } else { HEIGHT / 2 }) {}
            text x=(x + WIDTH / 2) y=(y + HEIGHT / 2 + 4) text-anchor="middle" { (parts::visible(&node.label)) }
        }
    }
}
