//! The layout of the picture: exchanges are in columns, by the number of exchanges that lead to them; queues are in the
//! last column. The order in each column keeps arrows short.

use std::collections::{BTreeMap, HashMap};

use crate::pb::{self, DestinationType};

/// The size of a box, and the distances between boxes.
pub(super) const WIDTH: i32 = 190;
pub(super) const HEIGHT: i32 = 30;
const GAP: i32 = 14;
const COLUMN: i32 = 200;
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
        columns.push(shown_queues.into_iter().map(|name| (true, name)).collect());
        columns.retain(|column: &Vec<Key>| !column.is_empty());
        shorten(&mut columns, &links);
        let (nodes, places) = place(&columns);
        let height = columns.iter().map(Vec::len).max().unwrap_or(0) as i32 * (HEIGHT + GAP) + 2 * MARGIN;
        let width = columns.len().max(1) as i32 * (WIDTH + COLUMN) - COLUMN + 2 * MARGIN;
        let mut arrived: HashMap<&Key, i32> = HashMap::new();
        let edges = links.iter().filter_map(|((from, to), keys)| {
            let ((x1, y1), (x2, y2)) = (*places.get(from)?, *places.get(to)?);
            let before = arrived.entry(to).or_default();
            let label_offset = LABEL_OFFSETS[*before as usize % LABEL_OFFSETS.len()];
            *before += 1;
            let (label, title) = (label(keys), keys.join(", "));
            Some(Edge { from: (x1 + WIDTH, y1 + HEIGHT / 2), to: (x2, y2 + HEIGHT / 2), label, title, label_offset })
        });
        Self { edges: edges.collect(), nodes, width, height, hidden }
    }
}

/// The routing keys of all bindings between each pair.
fn links(bindings: &[pb::Binding]) -> BTreeMap<(Key, Key), Vec<String>> {
    let mut links: BTreeMap<_, Vec<String>> = BTreeMap::new();
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
fn columns(exchanges: &[String], links: &BTreeMap<(Key, Key), Vec<String>>) -> Vec<Vec<Key>> {
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
        columns[depth[name.as_str()]].push((false, name.clone()));
    }
    columns
}

/// Orders each column by the average position of the linked boxes in other columns.
fn shorten(columns: &mut [Vec<Key>], links: &BTreeMap<(Key, Key), Vec<String>>) {
    let mut linked: HashMap<Key, Vec<Key>> = HashMap::new();
    for (from, to) in links.keys() {
        linked.entry(from.clone()).or_default().push(to.clone());
        linked.entry(to.clone()).or_default().push(from.clone());
    }
    for _ in 0..ROUNDS {
        for at in 0..columns.len() {
            let mut places: HashMap<&Key, f64> = HashMap::new();
            for (_, column) in columns.iter().enumerate().filter(|(other, _)| *other != at) {
                let length = column.len().max(1) as f64;
                places.extend(column.iter().enumerate().map(|(place, key)| (key, (place as f64 + 0.5) / length)));
            }
            let length = columns[at].len().max(1) as f64;
            let mut ordered: Vec<_> = columns[at]
                .iter()
                .enumerate()
                .map(|(own, key)| {
                    let others = linked.get(key).into_iter().flatten().filter_map(|other| places.get(other));
                    let (sum, number) = others.fold((0.0, 0), |(sum, number), place| (sum + place, number + 1));
                    let middle = if number == 0 { (own as f64 + 0.5) / length } else { sum / f64::from(number) };
                    (middle, key.clone())
                })
                .collect();
            ordered.sort_by(|(one, first), (other, second)| one.total_cmp(other).then_with(|| first.cmp(second)));
            columns[at] = ordered.into_iter().map(|(_, key)| key).collect();
        }
    }
}

fn place(columns: &[Vec<Key>]) -> (Vec<Node>, HashMap<Key, (i32, i32)>) {
    let tallest = columns.iter().map(Vec::len).max().unwrap_or(0) as i32;
    let (mut nodes, mut places) = (Vec::new(), HashMap::new());
    for (at, column) in columns.iter().enumerate() {
        // Short columns are centred.
        let top = MARGIN + (tallest - column.len() as i32) * (HEIGHT + GAP) / 2;
        for (row, key) in column.iter().enumerate() {
            let x = MARGIN + at as i32 * (WIDTH + COLUMN);
            let y = top + row as i32 * (HEIGHT + GAP);
            places.insert(key.clone(), (x, y));
            let (is_queue, name) = key.clone();
            nodes.push(Node { label: cut(&name, MAX_NAME), name, is_queue, x, y });
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
