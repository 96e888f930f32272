//! Writes the generated part of `ferrymq-kafka-codec` from Kafka's message descriptors.
//!
//! `ferrymq-kafka-codegen <kafka-clients.jar | directory> [codec crate] [--check]`
//!
//! The descriptors ship inside the kafka-clients jar and are not kept here; what is generated is. With
//! `--check` nothing is written and a difference is an error. The same input always gives the same output.
#![allow(clippy::print_stdout, reason = "a command-line tool speaks on its standard output")]

mod apis;
mod descriptor;
mod emit;
mod emit_index;
mod model;
mod source;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::apis::APIS;
use crate::descriptor::Versions;

fn main() -> Result<()> {
    let (flags, paths): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let check = flags.iter().any(|flag| flag == "--check");
    let Some(input) = paths.first() else {
        bail!("usage: ferrymq-kafka-codegen <kafka-clients.jar | directory> [codec crate] [--check]");
    };
    let codec = paths.get(1).map_or("crates/kafka-codec", String::as_str);
    let files = generate(Path::new(input))?;
    let mut stale = Vec::new();
    let mut lines = 0;
    for (name, text) in &files {
        let path = Path::new(codec).join(name);
        lines += text.lines().count();
        if fs::read_to_string(&path).is_ok_and(|old| old == *text) {
            continue;
        }
        stale.push(path.display().to_string());
        if !check {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
    }
    if check && !stale.is_empty() {
        bail!("not what the generator writes: {}", stale.join(", "));
    }
    println!("{} files, {lines} lines, {} changed", files.len(), stale.len());
    Ok(())
}

/// Every generated file: path inside the codec crate, text.
fn generate(input: &Path) -> Result<Vec<(PathBuf, String)>> {
    let descriptors = descriptor::parse_all(&source::read(input)?)?;
    let mut all = Vec::new();
    let mut raw = Vec::new();
    for api in APIS {
        let find = |is_request| {
            descriptors.get(&(api.key, is_request)).with_context(|| format!("no descriptor for {}", api.name))
        };
        let (request, response) = (find(true)?, find(false)?);
        if request.name != format!("{}Request", api.name) {
            bail!("key {} is {}, not {}", api.key, request.name, api.name);
        }
        raw.extend([(api, request), (api, response)]);
        let (request, response) = model::resolve(request, response, Versions { lo: api.min, hi: api.max })?;
        all.push((api, request, response));
    }
    let mut files = vec![
        (PathBuf::from("src/api_key.rs"), rustfmt(&emit_index::api_key_file(&all)?)?),
        (PathBuf::from("src/messages.rs"), rustfmt(&emit_index::messages_file(&all)?)?),
        (PathBuf::from("tests/support/schema.txt"), emit_index::schema_file(&raw)?),
    ];
    for (api, request, response) in &all {
        let path = PathBuf::from("src/messages").join(format!("{}.rs", model::snake_case(api.name)));
        files.push((path, rustfmt(&emit::api_file(api, request, response)?)?));
    }
    Ok(files)
}

/// Formats with the workspace's settings, which rustfmt finds from the current directory.
fn rustfmt(text: &str) -> Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start rustfmt")?;
    let mut input = child.stdin.take().context("rustfmt's input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt refused the generated text");
    }
    Ok(String::from_utf8(output.stdout)?)
}
