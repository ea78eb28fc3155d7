//! The second part of each service's page in docs/reference, generated from the comments of the protobuf files: its
//! calls with the fields of their requests and responses. Types are links to their definitions.
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
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
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

/// A message, and the path of its comments.
struct Described<'a> {
    item: &'a DescriptorProto,
    comments: &'a Comments,
    path: Vec<i32>,
}

/// The links to the definitions of messages and enums, by name.
struct Links(HashMap<String, String>);

impl Links {
    fn of(files: &[&FileDescriptorProto]) -> Self {
        let mut links = HashMap::new();
        for file in files {
            let info = file.source_code_info.as_ref().unwrap();
            let line = |path: &[i32]| info.location.iter().find(|place| place.path == path).unwrap().span[0] + 1;
            let messages = (0..).zip(file.message_type.iter().map(DescriptorProto::name)).map(|item| (MESSAGES, item));
            let enums = (0..).zip(file.enum_type.iter().map(|item| item.name())).map(|item| (ENUMS, item));
            for (kind, (number, name)) in messages.chain(enums) {
                let target = format!("../../proto/{}#L{}", file.name(), line(&[kind, number]));
                links.insert(name.to_owned(), format!("[{name}]({target})"));
            }
        }
        Self(links)
    }

    /// The type's name as a link; types of Google's packages have none.
    fn to(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }
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

/// Whether exactly one field of the message can be set.
fn is_alternatives(message: &DescriptorProto) -> bool {
    let alternative = |field: &FieldDescriptorProto| field.oneof_index == Some(0) && !field.proto3_optional();
    message.field.len() > 1 && message.field.iter().all(alternative)
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto, links: &Links) -> String {
    let plain = |field: &FieldDescriptorProto| match field.r#type() {
        Type::Message | Type::Enum => links.to(short(field.type_name())),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let entry = message.nested_type.iter().find(|nested| nested.name() == short(field.type_name()));
    let text = match entry {
        Some(entry) => format!("map of {} to {}", plain(&entry.field[0]), plain(&entry.field[1])),
        None if field.label() == Label::Repeated => format!("list of {}", plain(field)),
        None => plain(field),
    };
    match field.oneof_index {
        Some(_) if is_alternatives(message) => text,
        Some(one) if !field.proto3_optional() => {
            format!("{text}, one of `{}`", message.oneof_decl[usize::try_from(one).unwrap()].name())
        }
        Some(_) => format!("{text}, optional"),
        None => text,
    }
}

/// The fields of a message, as a list.
fn fields(message: &Described<'_>, links: &Links) -> String {
    let mut out = String::new();
    for (number, field) in (0..).zip(&message.item.field) {
        let what = message.comments.at(&[&message.path[..], &[MEMBERS, number]].concat(), field.name());
        if !COMMON.contains(&field.name()) {
            match kind(field, message.item, links).as_str() {
                // The default, as docs/reference/README.md documents.
                "string" => item(&mut out, &format!("`{}`: {what}", field.name())),
                kind => item(&mut out, &format!("`{}` ({kind}): {what}", field.name())),
            }
        }
    }
    out
}

/// One side of a call: the fields of its message, if it has any.
fn side(out: &mut String, label: &str, streams: bool, message: &Described<'_>, links: &Links) {
    let list = fields(message, links);
    if !list.is_empty() {
        let stream = if streams { " stream" } else { "" };
        let alternatives = if is_alternatives(message.item) { ", one of" } else { "" };
        writeln!(out, "{label}{stream}{alternatives}:\n\n{list}").unwrap();
    }
}

fn call(
    out: &mut String,
    comments: &Comments,
    method: &MethodDescriptorProto,
    path: &[i32],
    messages: &BTreeMap<&str, Described<'_>>,
    links: &Links,
) {
    writeln!(out, "### {}\n", method.name()).unwrap();
    paragraph(out, &comments.at(path, method.name()));
    let (input, output) = (short(method.input_type()), short(method.output_type()));
    side(out, "Request", method.client_streaming(), &messages[input], links);
    side(out, "Response", method.server_streaming(), &messages[output], links);
}

/// Panics where a message, a field, an enum or one of its values has no comment.
fn check_comments(file: &FileDescriptorProto, comments: &Comments, links: &Links) {
    for (number, item) in (0..).zip(&file.message_type) {
        comments.at(&[MESSAGES, number], item.name());
        fields(&Described { item, comments, path: vec![MESSAGES, number] }, links);
    }
    for (number, item) in (0..).zip(&file.enum_type) {
        comments.at(&[ENUMS, number], item.name());
        for (value, name) in (0..).zip(item.value.iter().map(|value| value.name())) {
            comments.at(&[ENUMS, number, MEMBERS, value], name);
        }
    }
}

/// The generated part of one page: its calls with their requests and responses.
fn page(files: &[&FileDescriptorProto], links: &Links) -> String {
    let mut out = String::from("\n## Calls\n\n");
    let comments: Vec<Comments> = files.iter().map(|file| Comments::of(file)).collect();
    let mut messages = BTreeMap::new();
    for (file, comments) in files.iter().zip(&comments) {
        check_comments(file, comments, links);
        for (number, item) in (0..).zip(&file.message_type) {
            messages.insert(item.name(), Described { item, comments, path: vec![MESSAGES, number] });
        }
    }
    let calls = files.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let contents: Vec<_> = calls.map(|call| format!("[{0}](#{1})", call.name(), call.name().to_lowercase())).collect();
    paragraph(&mut out, &contents.join(", "));
    for (file, comments) in files.iter().zip(&comments) {
        for (number, service) in (0..).zip(&file.service) {
            comments.at(&[SERVICES, number], service.name());
            for (member, method) in (0..).zip(&service.method) {
                call(&mut out, comments, method, &[SERVICES, number, MEMBERS, member], &messages, links);
            }
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
    let links = Links::of(&ours);
    for (name, files) in PAGES {
        let path = super::root().join(format!("docs/reference/{name}.md"));
        let text = fs::read_to_string(&path).unwrap();
        let written = text.split_once(BEGIN).map_or(format!("{text}\n"), |(written, _)| written.to_owned());
        let of_page = |stem: &&str| ours.iter().find(|file| file.name() == format!("warrengate/v1/{stem}.proto"));
        let files: Vec<_> = files.iter().map(|stem| *of_page(stem).unwrap()).collect();
        let expected = format!("{written}{BEGIN}{}", page(&files, &links));
        if text != expected && env::var_os("WARRENGATE_WRITE_DOCS").is_some() {
            fs::write(path, expected).unwrap();
            continue;
        }
        assert!(text == expected, "{} differs from the protobuf files: {BEGIN}", path.display());
    }
}
