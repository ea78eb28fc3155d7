# Shortcuts for the scripts; `just` lists them. Everything here also works without just.

_default:
    @just --list

# Run a gateway with a private broker and two tenants until Ctrl-C
up *arguments:
    ./scripts/up {{ arguments }}

# Run all checks, or only tests: `just test --test it NAME`
test *arguments:
    ./scripts/test {{ arguments }}

# Format, and run the checks that need no broker
lint:
    cargo fmt --all
    ./scripts/lint

# Measure the gateway against direct clients: `just bench --quick`
bench *arguments:
    cargo build --locked --release --package warrengate --package warrengate-bench
    ./target/release/warrengate-bench {{ arguments }}

# Update the generated reference and build the API documentation
docs:
    WARRENGATE_WRITE_DOCS=1 cargo test --locked --test documents
    cargo doc --locked --workspace --no-deps
