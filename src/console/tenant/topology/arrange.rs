//! The layout of the picture: exchanges are in columns, by the number of exchanges that lead to them; queues are in the
//! last column. The order in each column keeps arrows short. An arrow over several columns has a place in each of them,
//! so that it passes between boxes and not behind them.

use std::collections::{BTreeMap, HashMap};

use crate::pb::{self, DestinationType};

/// The size of a box, and the distances between boxes.
pub(super) const WIDTH: i32 = 190;
pub(super) const HEIGHT: i32 = 30;
const GAP: i32 = 14;
const COLUMN: i32 = 200;
/// The height of an arrow that passes a column.
const LANE: i32 = 12;
const MARGIN: i32 = 16;
/// The maximum number of characters shown of a name or a key.
const MAX_NAME: usize = 25;
const MAX_KEY: usize = 26;
/// Exchanges can be bound in a circle, so the number of columns is bounded.
const MAX_COLUMNS: usize = 6;
const ROUNDS: usize = 4;
/// The positions of labels of arrows to the same box.
const LABEL_OFFSETS: [i32; 3] = [-5, 13, -17];

/// A box.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) label: String,
    pub(super) is_queue: bool,
    pub(super) x: i32,
    pub(super) y: i32,
}

/// An arrow for all bindings between two boxes.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) from: (i32, i32),
    /// Where it passes columns: the left and the right end of each passage.
    pub(super) lanes: Vec<((i32, i32), (i32, i32))>,
    pub(super) to: (i32, i32),
    pub(super) label: String,
    pub(super) title: String,
    /// How far the label is below the end of the arrow: labels of arrows to the same box are above each other.
    pub(super) label_offset: i32,
}

#[derive(Debug)]
pub(super) struct Picture {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
    pub(super) width: i32,
    pub(super) height: i32,
    /// How many exchanges and queues are not shown.
    pub(super) hidden: usize,
}

/// An exchange or a queue, which may have the same name.
type Key = (bool, String);

/// The routing keys of all bindings between each pair.
type Links = BTreeMap<(Key, Key), Vec<String>>;

/// What has a place in a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Slot {
    Box(Key),
    /// The arrow with this index passes this column.
    Lane(usize, usize),
}

impl Slot {
    fn height(&self) -> i32 {
        match self {
            Self::Box(_) => HEIGHT,
            Self::Lane(..) => LANE,
        }
    }
}

impl Picture {
    pub(super) fn arrange(exchanges: &[String], queues: &[String], bindings: &[pb::Binding], max: usize) -> Self {
        let links = links(bindings);
        let mut exchanges = exchanges.to_vec();
        // The broker's own exchanges are not listed; they are shown when something is bound to them.
        for ((_, name), _) in links.keys() {
            if !exchanges.contains(name) {
                exchanges.push(name.clone());
            }
        }
        let all = exchanges.len() + queues.len();
        let shown_exchanges: Vec<_> = exchanges.into_iter().take(max / 2).collect();
        let shown_queues: Vec<_> = queues.iter().take(max - shown_exchanges.len()).cloned().collect();
        let hidden = all - shown_exchanges.len() - shown_queues.len();
        let mut columns = columns(&shown_exchanges, &links);
        columns.push(shown_queues.into_iter().map(|name| Slot::Box((true, name))).collect());
        columns.retain(|column| !column.is_empty());
        let chains = add_lanes(&mut columns, &links);
        shorten(&mut columns, &chains);
        let (nodes, places) = place(&columns);
        let mut arrived: HashMap<&Key, i32> = HashMap::new();
        let edges = links.iter().zip(&chains).filter_map(|(((_, to), keys), chain)| {
            let ((x1, y1), (x2, y2)) = (places.get(chain.first()?)?, places.get(chain.last()?)?);
            let lanes = chain[1..chain.len() - 1].iter().filter_map(|slot| places.get(slot));
            let before = arrived.entry(to).or_default();
            let label_offset = LABEL_OFFSETS[*before as usize % LABEL_OFFSETS.len()];
            *before += 1;
            Some(Edge {
                from: (x1 + WIDTH, y1 + HEIGHT / 2),
                lanes: lanes.map(|(x, y)| ((*x, y + LANE / 2), (x + WIDTH, y + LANE / 2))).collect(),
                to: (*x2, y2 + HEIGHT / 2),
                label: label(keys),
                title: keys.join(", "),
                label_offset,
            })
        });
        Self {
            edges: edges.collect(),
            nodes,
            width: columns.len().max(1) as i32 * (WIDTH + COLUMN) - COLUMN + 2 * MARGIN,
            height: columns.iter().map(|column| length(column)).max().unwrap_or(0) + 2 * MARGIN,
            hidden,
        }
    }
}

fn links(bindings: &[pb::Binding]) -> Links {
    let mut links = Links::new();
    for binding in bindings {
        let is_queue = binding.destination_type() != DestinationType::Exchange;
        let ends = ((false, binding.source.clone()), (is_queue, binding.destination.clone()));
        let key = match (binding.headers.is_empty(), binding.routing_key.is_empty()) {
            (false, _) => "headers".to_owned(),
            (true, true) => "all".to_owned(),
            (true, false) => binding.routing_key.clone(),
        };
        links.entry(ends).or_default().push(key);
    }
    links
}

/// Exchanges by the length of the longest chain of exchanges that leads to them.
fn columns(exchanges: &[String], links: &Links) -> Vec<Vec<Slot>> {
    let mut depth: HashMap<&str, usize> = exchanges.iter().map(|name| (name.as_str(), 0)).collect();
    for _ in 1..MAX_COLUMNS {
        for ((_, from), (is_queue, to)) in links.keys() {
            let Some(before) = depth.get(from.as_str()).copied().filter(|_| !is_queue && from != to) else { continue };
            if let Some(own) = depth.get_mut(to.as_str()) {
                *own = (*own).max(before + 1).min(MAX_COLUMNS - 1);
            }
        }
    }
    let mut columns = vec![Vec::new(); MAX_COLUMNS];
    for name in exchanges {
        columns[depth[name.as_str()]].push(Slot::Box((false, name.clone())));
    }
    columns
}

/// Adds a lane to each column that an arrow passes. Returns the places of each arrow from its first box to its last, or
/// none if one of the boxes is not shown.
fn add_lanes(columns: &mut [Vec<Slot>], links: &Links) -> Vec<Vec<Slot>> {
    let numbered = columns.iter().enumerate();
    let column_of: HashMap<Slot, usize> =
        numbered.flat_map(|(at, column)| column.iter().map(move |slot| (slot.clone(), at))).collect();
    let chain = |(index, (from, to)): (usize, &(Key, Key))| {
        let (from, to) = (Slot::Box(from.clone()), Slot::Box(to.clone()));
        let (Some(first), Some(last)) = (column_of.get(&from), column_of.get(&to)) else { return Vec::new() };
        let mut chain = vec![from];
        for (at, column) in columns.iter_mut().enumerate().take(*last).skip(first + 1) {
            column.push(Slot::Lane(index, at));
            chain.push(Slot::Lane(index, at));
        }
        chain.push(to);
        chain
    };
    links.keys().enumerate().map(chain).collect()
}

/// Orders each column by the average position of the linked places in other columns.
fn shorten(columns: &mut [Vec<Slot>], chains: &[Vec<Slot>]) {
    let mut linked: HashMap<&Slot, Vec<&Slot>> = HashMap::new();
    for pair in chains.iter().flat_map(|chain| chain.windows(2)) {
        linked.entry(&pair[0]).or_default().push(&pair[1]);
        linked.entry(&pair[1]).or_default().push(&pair[0]);
    }
    for _ in 0..ROUNDS {
        for at in 0..columns.len() {
            let mut places: HashMap<&Slot, f64> = HashMap::new();
            for (_, column) in columns.iter().enumerate().filter(|(other, _)| *other != at) {
                let length = column.len().max(1) as f64;
                places.extend(column.iter().enumerate().map(|(place, slot)| (slot, (place as f64 + 0.5) / length)));
            }
            let length = columns[at].len().max(1) as f64;
            let mut ordered: Vec<_> = columns[at]
                .iter()
                .enumerate()
                .map(|(own, slot)| {
                    let others = linked.get(slot).into_iter().flatten().filter_map(|other| places.get(other));
                    let (sum, number) = others.fold((0.0, 0), |(sum, number), place| (sum + place, number + 1));
                    let middle = if number == 0 { (own as f64 + 0.5) / length } else { sum / f64::from(number) };
                    (middle, slot.clone())
                })
                .collect();
            ordered.sort_by(|(one, first), (other, second)| one.total_cmp(other).then_with(|| first.cmp(second)));
            columns[at] = ordered.into_iter().map(|(_, slot)| slot).collect();
        }
    }
}

/// The height of a column.
fn length(column: &[Slot]) -> i32 {
    column.iter().map(|slot| slot.height() + GAP).sum()
}

fn place(columns: &[Vec<Slot>]) -> (Vec<Node>, HashMap<&Slot, (i32, i32)>) {
    let longest = columns.iter().map(|column| length(column)).max().unwrap_or(0);
    let (mut nodes, mut places) = (Vec::new(), HashMap::new());
    for (at, column) in columns.iter().enumerate() {
        let x = MARGIN + at as i32 * (WIDTH + COLUMN);
        // Short columns are centred.
        let mut y = MARGIN + (longest - length(column)) / 2;
        for slot in column {
            places.insert(slot, (x, y));
            if let Slot::Box((is_queue, name)) = slot {
                let (name, is_queue) = (name.clone(), *is_queue);
                nodes.push(Node { label: cut(&name, MAX_NAME), name, is_queue, x, y });
            }
            y += slot.height() + GAP;
        }
    }
    (nodes, places)
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn label(keys: &[String]) -> String {
    let first = keys.first().map_or("", String::as_str);
    match keys.len() {
        0 | 1 => cut(first, MAX_KEY),
        more => format!("{} +{}", cut(first, MAX_KEY - 4), more - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(source: &str, destination: &str, kind: DestinationType, key: &str) -> pb::Binding {
        pb::Binding {
            source: source.into(),
            destination: destination.into(),
            destination_type: kind.into(),
            routing_key: key.into(),
            ..pb::Binding::default()
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn exchanges_lead_to_exchanges_and_queues_from_left_to_right() {
        let bindings = [
            binding("in", "out", DestinationType::Exchange, "#"),
            binding("out", "a", DestinationType::Queue, "x"),
            binding("out", "a", DestinationType::Queue, "y"),
            binding("amq.topic", "b", DestinationType::Queue, ""),
        ];
        let picture = Picture::arrange(&names(&["in", "out"]), &names(&["a", "b"]), &bindings, 100);
        let x = |name: &str| picture.nodes.iter().find(|node| node.name == name).expect("a box").x;
        assert!(x("in") < x("out") && x("out") < x("a"));
        assert_eq!((x("a"), x("amq.topic")), (x("b"), x("in")));
        assert_eq!((picture.edges.len(), picture.hidden), (3, 0));
        assert!(picture.edges.iter().any(|edge| edge.label == "x +1" && edge.title == "x, y"), "{picture:?}");
        let mut places: Vec<_> = picture.nodes.iter().map(|node| (node.x, node.y)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), picture.nodes.len(), "no two boxes are in one place");
    }

    #[test]
    fn an_arrow_over_several_columns_passes_between_their_boxes() {
        let bindings = [
            binding("events", "archive", DestinationType::Exchange, "#"),
            binding("archive", "audit", DestinationType::Queue, ""),
            binding("events", "orders", DestinationType::Queue, "order.*"),
            binding("events", "invoices", DestinationType::Queue, "order.paid"),
        ];
        let picture =
            Picture::arrange(&names(&["archive", "events"]), &names(&["audit", "invoices", "orders"]), &bindings, 100);
        let long: Vec<_> = picture.edges.iter().filter(|edge| !edge.lanes.is_empty()).collect();
        assert_eq!(long.len(), 2, "{picture:?}");
        for ((x, y), _) in long.iter().flat_map(|edge| &edge.lanes) {
            let column: Vec<_> = picture.nodes.iter().filter(|node| node.x == *x).collect();
            assert_eq!(column.len(), 1, "{picture:?}");
            assert!(column.iter().all(|node| *y < node.y || *y > node.y + HEIGHT), "{picture:?}");
        }
        assert_ne!(long[0].lanes[0].0.1, long[1].lanes[0].0.1, "each has its own lane");
    }

    #[test]
    fn circles_are_drawn_and_large_topologies_are_cut() {
        let bindings = [
            binding("a", "b", DestinationType::Exchange, "#"),
            binding("b", "a", DestinationType::Exchange, "#"),
            binding("a", "a", DestinationType::Exchange, "#"),
        ];
        assert_eq!(Picture::arrange(&names(&["a", "b"]), &[], &bindings, 100).edges.len(), 3);
        let many: Vec<_> = (0..1_000).map(|at| format!("q{at}")).collect();
        let picture = Picture::arrange(&[], &many, &[], 100);
        assert_eq!((picture.nodes.len(), picture.hidden), (100, 900));
        assert!(Picture::arrange(&[], &[], &[], 100).nodes.is_empty());
    }
}
