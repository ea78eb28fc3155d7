//! The last part of docs/api.md is made from the comments of the protobuf files, so that it cannot say anything else than they do.

use std::{collections::HashMap, env, fmt::Write as _, fs};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const BEGIN: &str = "<!-- Made from the protobuf files: WARRENGATE_WRITE_DOCS=1 cargo test --test documents -->\n";

// What descriptor.proto calls the fields of a file, a service, a message and an enum.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const MEMBERS: i32 = 2;

/// A file's comments, by what they stand at.
struct Comments(HashMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let places = file.source_code_info.iter().flat_map(|info| &info.location);
        let comment = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Self(places.map(|place| (place.path.clone(), comment(place.leading_comments()))).collect())
    }

    /// Every service, call, message, field and value has one.
    fn at(&self, path: &[i32], name: &str) -> String {
        let text = self.0.get(path).filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{name} has no comment"));
        // In code they stand as they are; elsewhere Markdown takes them for a tag's beginning.
        let parts = text.split('`').enumerate();
        let parts = parts.map(|(part, text)| if part % 2 == 0 { text.replace('<', "&lt;") } else { text.to_owned() });
        parts.collect::<Vec<_>>().join("`").replace('|', "\\|")
    }
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
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

fn service(out: &mut String, comments: &Comments, service: &ServiceDescriptorProto, path: &[i32]) {
    writeln!(out, "### {}\n\n{}\n", service.name(), comments.at(path, service.name())).unwrap();
    writeln!(out, "| call | takes | gives | |\n| --- | --- | --- | --- |").unwrap();
    for (number, method) in (0..).zip(&service.method) {
        let side = |streams: bool, name: &str| format!("{}`{}`", if streams { "stream of " } else { "" }, short(name));
        let what = comments.at(&[path, &[MEMBERS, number]].concat(), method.name());
        let takes = side(method.client_streaming(), method.input_type());
        let gives = side(method.server_streaming(), method.output_type());
        writeln!(out, "| `{}` | {takes} | {gives} | {what} |", method.name()).unwrap();
    }
    out.push('\n');
}

fn message(out: &mut String, comments: &Comments, message: &DescriptorProto, path: &[i32]) {
    writeln!(out, "**`{}`**: {}\n", message.name(), comments.at(path, message.name())).unwrap();
    if message.field.is_empty() {
        return;
    }
    writeln!(out, "| field | type | |\n| --- | --- | --- |").unwrap();
    for (number, field) in (0..).zip(&message.field) {
        let what = comments.at(&[path, &[MEMBERS, number]].concat(), field.name());
        writeln!(out, "| `{}` | {} | {what} |", field.name(), kind(field, message)).unwrap();
    }
    out.push('\n');
}

fn enumeration(out: &mut String, comments: &Comments, enumeration: &EnumDescriptorProto, path: &[i32]) {
    writeln!(out, "**`{}`**: {}\n", enumeration.name(), comments.at(path, enumeration.name())).unwrap();
    writeln!(out, "| value | |\n| --- | --- |").unwrap();
    for (number, value) in (0..).zip(&enumeration.value) {
        let what = comments.at(&[path, &[MEMBERS, number]].concat(), value.name());
        writeln!(out, "| `{}` | {what} |", value.name()).unwrap();
    }
    out.push('\n');
}

fn reference() -> String {
    let files = FileDescriptorSet::decode(warrengate::pb::FILE_DESCRIPTOR_SET).unwrap();
    let mut out = String::new();
    let ours = || files.file.iter().filter(|file| file.package() == "warrengate.v1");
    for file in ours() {
        let comments = Comments::of(file);
        for (number, each) in (0..).zip(&file.service) {
            service(&mut out, &comments, each, &[SERVICES, number]);
        }
    }
    for file in ours() {
        let comments = Comments::of(file);
        writeln!(out, "### In {}\n", short(file.name().trim_end_matches(".proto")).replace("warrengate/v1/", ""))
            .unwrap();
        for (number, each) in (0..).zip(&file.message_type) {
            message(&mut out, &comments, each, &[MESSAGES, number]);
        }
        for (number, each) in (0..).zip(&file.enum_type) {
            enumeration(&mut out, &comments, each, &[ENUMS, number]);
        }
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
fn every_call_and_field_is_described_as_the_protobuf_files_describe_it() {
    let page = super::root().join("docs/api.md");
    let text = fs::read_to_string(&page).unwrap();
    let (own, made) = text.split_once(BEGIN).expect("docs/api.md has a place for the reference");
    let expected = format!("\n{}", reference());
    if made != expected && env::var_os("WARRENGATE_WRITE_DOCS").is_some() {
        fs::write(page, format!("{own}{BEGIN}{expected}")).unwrap();
        return;
    }
    assert!(made == expected, "docs/api.md is not what the protobuf files say: {BEGIN}");
}
