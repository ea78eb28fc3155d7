//! The second part of each service's page in docs/reference, generated from the comments of the protobuf files.
//!
//! The pages and the protobuf files cannot differ: the test fails until the pages are generated again.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    fmt::Write as _,
    fs,
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const BEGIN: &str = "<!-- Generated from the protobuf files: WARRENGATE_WRITE_DOCS=1 cargo test --test documents -->\n";

/// Each page, and the protobuf files that it describes.
const PAGES: [(&str, &[&str]); 4] =
    [("messaging", &["messaging", "message"]), ("topology", &["topology"]), ("auth", &["auth"]), ("admin", &["admin"])];

/// Fields that docs/reference/README.md describes once for all calls.
const COMMON: [&str; 4] = ["page_size", "page_token", "next_page_token", "validate_only"];

// Field numbers of descriptor.proto for the parts of a file, a service, a message and an enum.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const MEMBERS: i32 = 2;

/// The comments of a file, by the path of what they describe.
struct Comments(HashMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let places = file.source_code_info.iter().flat_map(|info| &info.location);
        let comment = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self(places.map(|place| (place.path.clone(), comment(place.leading_comments()))).collect())
    }

    /// Panics where a service, call, message, field or value has no comment.
    fn at(&self, path: &[i32], name: &str) -> String {
        let text = self.0.get(path).filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{name} has no comment"));
        // Outside of code, Markdown would read "<" as the start of a tag.
        let parts = text.split('`').enumerate();
        let parts = parts.map(|(part, text)| if part % 2 == 0 { text.replace('<', "&lt;") } else { text.to_owned() });
        parts.collect::<Vec<_>>().join("`")
    }
}

/// A message or enum, and the path of its comments.
struct Described<'a, T> {
    item: &'a T,
    comments: &'a Comments,
    path: Vec<i32>,
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

/// A list item, wrapped at 120 columns.
fn item(out: &mut String, text: &str) {
    let mut line = String::from("-");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > 120 {
            writeln!(out, "{line}").unwrap();
            line = String::from(" ");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(out, "{line}").unwrap();
}

/// A paragraph, wrapped at 120 columns.
fn paragraph(out: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > 120 {
            writeln!(out, "{line}").unwrap();
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(out, "{line}\n").unwrap();
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let plain = |field: &FieldDescriptorProto| match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let entry = message.nested_type.iter().find(|nested| nested.name() == short(field.type_name()));
    let text = match entry {
        Some(entry) => format!("map of {} to {}", plain(&entry.field[0]), plain(&entry.field[1])),
        None if field.label() == Label::Repeated => format!("list of {}", plain(field)),
        None => plain(field),
    };
    match field.oneof_index {
        Some(one) if !field.proto3_optional() => {
            format!("{text}, one of `{}`", message.oneof_decl[usize::try_from(one).unwrap()].name())
        }
        Some(_) => format!("{text}, optional"),
        None => text,
    }
}

/// Writes the fields of a message, and returns how many there were.
fn fields(out: &mut String, message: &Described<'_, DescriptorProto>) -> usize {
    let mut written = 0;
    for (number, field) in (0..).zip(&message.item.field) {
        let what = message.comments.at(&[&message.path[..], &[MEMBERS, number]].concat(), field.name());
        if !COMMON.contains(&field.name()) {
            match kind(field, message.item).as_str() {
                // Most fields are; docs/reference/README.md says so.
                "string" => item(out, &format!("`{}`: {what}", field.name())),
                kind => item(out, &format!("`{}` ({kind}): {what}", field.name())),
            }
            written += 1;
        }
    }
    written
}

/// One side of a call: the fields of its message, if it has any.
fn side(out: &mut String, label: &str, streams: bool, message: &Described<'_, DescriptorProto>) {
    let stream = if streams { " stream" } else { "" };
    let mut list = String::new();
    match fields(&mut list, message) {
        0 => {}
        _ => writeln!(out, "{label}{stream}:\n\n{list}").unwrap(),
    }
}

fn enumeration(out: &mut String, described: &Described<'_, EnumDescriptorProto>) {
    let name = described.item.name();
    writeln!(out, "### {name}\n").unwrap();
    paragraph(out, &described.comments.at(&described.path, name));
    for (number, value) in (0..).zip(&described.item.value) {
        let what = described.comments.at(&[&described.path[..], &[MEMBERS, number]].concat(), value.name());
        item(out, &format!("`{}`: {what}", value.name()));
    }
    out.push('\n');
}

fn call<'a>(
    out: &mut String,
    comments: &Comments,
    method: &'a MethodDescriptorProto,
    path: &[i32],
    messages: &BTreeMap<&str, Described<'_, DescriptorProto>>,
) -> [&'a str; 2] {
    writeln!(out, "### {}\n", method.name()).unwrap();
    paragraph(out, &comments.at(path, method.name()));
    let (input, output) = (short(method.input_type()), short(method.output_type()));
    side(out, "Request", method.client_streaming(), &messages[input]);
    side(out, "Response", method.server_streaming(), &messages[output]);
    [input, output]
}

/// The generated part of one page: its calls with their requests and responses, then the messages and enums they use.
fn page(files: &[&FileDescriptorProto]) -> String {
    let mut out = String::from("\n## Calls\n\n");
    let comments: Vec<Comments> = files.iter().map(|file| Comments::of(file)).collect();
    let mut messages = BTreeMap::new();
    for (file, comments) in files.iter().zip(&comments) {
        for (number, item) in (0..).zip(&file.message_type) {
            // Also fails for messages that no call uses without a comment.
            comments.at(&[MESSAGES, number], item.name());
            messages.insert(item.name(), Described { item, comments, path: vec![MESSAGES, number] });
        }
    }
    let mut shown = Vec::new();
    for (file, comments) in files.iter().zip(&comments) {
        for (number, service) in (0..).zip(&file.service) {
            comments.at(&[SERVICES, number], service.name());
            for (member, method) in (0..).zip(&service.method) {
                let path = [SERVICES, number, MEMBERS, member];
                shown.extend(call(&mut out, comments, method, &path, &messages));
            }
        }
    }
    out.push_str("## Messages\n\n");
    for (file, comments) in files.iter().zip(&comments) {
        for item in file.message_type.iter().filter(|message| !shown.contains(&message.name())) {
            let described = &messages[item.name()];
            writeln!(out, "### {}\n", item.name()).unwrap();
            paragraph(&mut out, &described.comments.at(&described.path, item.name()));
            if fields(&mut out, described) > 0 {
                out.push('\n');
            }
        }
        for (number, item) in (0..).zip(&file.enum_type) {
            enumeration(&mut out, &Described { item, comments, path: vec![ENUMS, number] });
        }
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
fn the_reference_matches_the_protobuf_files() {
    let files = FileDescriptorSet::decode(warrengate::pb::FILE_DESCRIPTOR_SET).unwrap();
    let ours: Vec<_> = files.file.iter().filter(|file| file.package() == "warrengate.v1").collect();
    let described: usize = PAGES.iter().map(|(_, files)| files.len()).sum();
    assert_eq!(described, ours.len(), "each protobuf file belongs to one page of docs/reference");
    for (name, files) in PAGES {
        let path = super::root().join(format!("docs/reference/{name}.md"));
        let text = fs::read_to_string(&path).unwrap();
        let own = text.split_once(BEGIN).map_or(format!("{text}\n"), |(own, _)| own.to_owned());
        let of_page = |stem: &&str| ours.iter().find(|file| file.name() == format!("warrengate/v1/{stem}.proto"));
        let files: Vec<_> = files.iter().map(|stem| *of_page(stem).unwrap()).collect();
        let expected = format!("{own}{BEGIN}{}", page(&files));
        if text != expected && env::var_os("WARRENGATE_WRITE_DOCS").is_some() {
            fs::write(path, expected).unwrap();
            continue;
        }
        assert!(text == expected, "{} differs from the protobuf files: {BEGIN}", path.display());
    }
}
