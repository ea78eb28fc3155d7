//! The second part of each service's page in docs/reference, generated from the comments of the protobuf files: its
//! calls, with links to the definitions of their requests and responses.
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

/// The definitions of messages and enums: their files and lines, by name.
struct Definitions(HashMap<String, String>);

impl Definitions {
    fn of(files: &[&FileDescriptorProto]) -> Self {
        let mut places = HashMap::new();
        for file in files {
            let info = file.source_code_info.as_ref().unwrap();
            for (number, item) in (0..).zip(&file.message_type) {
                let place = info.location.iter().find(|place| place.path == [MESSAGES, number]).unwrap();
                let target = format!("../../proto/{}#L{}", file.name(), place.span[0] + 1);
                places.insert(item.name().to_owned(), target);
            }
        }
        Self(places)
    }
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
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

/// One side of a call: a link to its message, and the names of the fields.
fn side(label: &str, streams: bool, message: &DescriptorProto, definitions: &Definitions) -> Option<String> {
    let names: Vec<_> = message.field.iter().map(FieldDescriptorProto::name).filter(|n| !COMMON.contains(n)).collect();
    let stream = if streams { " stream" } else { "" };
    let alternatives = if is_alternatives(message) { ", one of" } else { "" };
    let target = &definitions.0[message.name()];
    let list = || format!("[{label}]({target}){stream}{alternatives}: `{}`.", names.join("`, `"));
    (!names.is_empty()).then(list)
}

fn call(
    out: &mut String,
    comments: &Comments,
    method: &MethodDescriptorProto,
    path: &[i32],
    messages: &BTreeMap<&str, &DescriptorProto>,
    definitions: &Definitions,
) {
    writeln!(out, "### {}\n", method.name()).unwrap();
    paragraph(out, &comments.at(path, method.name()));
    let (input, output) = (messages[short(method.input_type())], messages[short(method.output_type())]);
    let request = side("Request", method.client_streaming(), input, definitions);
    let response = side("Response", method.server_streaming(), output, definitions);
    let sides: Vec<_> = request.into_iter().chain(response).collect();
    if !sides.is_empty() {
        paragraph(out, &sides.join(" "));
    }
}

/// Panics where a message, a field, an enum or one of its values has no comment.
fn check_comments(file: &FileDescriptorProto, comments: &Comments) {
    for (number, item) in (0..).zip(&file.message_type) {
        comments.at(&[MESSAGES, number], item.name());
        for (field, name) in (0..).zip(item.field.iter().map(FieldDescriptorProto::name)) {
            comments.at(&[MESSAGES, number, MEMBERS, field], name);
        }
    }
    for (number, item) in (0..).zip(&file.enum_type) {
        comments.at(&[ENUMS, number], item.name());
        for (value, name) in (0..).zip(item.value.iter().map(|value| value.name())) {
            comments.at(&[ENUMS, number, MEMBERS, value], name);
        }
    }
}

/// The generated part of one page: its calls.
fn page(files: &[&FileDescriptorProto], definitions: &Definitions) -> String {
    let mut out = String::from("\n## Calls\n\n");
    let comments: Vec<Comments> = files.iter().map(|file| Comments::of(file)).collect();
    let mut messages = BTreeMap::new();
    for (file, comments) in files.iter().zip(&comments) {
        check_comments(file, comments);
        messages.extend(file.message_type.iter().map(|item| (item.name(), item)));
    }
    let calls = files.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
    let contents: Vec<_> = calls.map(|call| format!("[{0}](#{1})", call.name(), call.name().to_lowercase())).collect();
    paragraph(&mut out, &contents.join(", "));
    for (file, comments) in files.iter().zip(&comments) {
        for (number, service) in (0..).zip(&file.service) {
            comments.at(&[SERVICES, number], service.name());
            for (member, method) in (0..).zip(&service.method) {
                call(&mut out, comments, method, &[SERVICES, number, MEMBERS, member], &messages, definitions);
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
    let definitions = Definitions::of(&ours);
    for (name, files) in PAGES {
        let path = super::root().join(format!("docs/reference/{name}.md"));
        let text = fs::read_to_string(&path).unwrap();
        let written = text.split_once(BEGIN).map_or(format!("{text}\n"), |(written, _)| written.to_owned());
        let of_page = |stem: &&str| ours.iter().find(|file| file.name() == format!("warrengate/v1/{stem}.proto"));
        let files: Vec<_> = files.iter().map(|stem| *of_page(stem).unwrap()).collect();
        let expected = format!("{written}{BEGIN}{}", page(&files, &definitions));
        if text != expected && env::var_os("WARRENGATE_WRITE_DOCS").is_some() {
            fs::write(path, expected).unwrap();
            continue;
        }
        assert!(text == expected, "{} differs from the protobuf files: {BEGIN}", path.display());
    }
}
