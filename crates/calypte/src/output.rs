//! How results and errors are shown: text and tables for people, JSON for programs.

use std::io::{self, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) is_json: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    /// A result: `text` for people, `value` for programs.
    pub(crate) fn result(self, text: impl FnOnce() -> String, value: &Value) -> io::Result<()> {
        if self.is_json { self.line(&value.to_string()) } else { self.line(&text()) }
    }

    /// A list of things: `empty` stands for a table without rows. Values are what [`Column::show`] reads.
    pub(crate) fn list(self, items: &[Value], columns: &[Column], empty: &str) -> io::Result<()> {
        if self.is_json {
            return self.line(&Value::from(items).to_string());
        }
        if items.is_empty() {
            return self.line(empty);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(columns.iter().map(|column| column.title));
        for item in items {
            table.add_row(columns.iter().map(|column| (column.show)(item)));
        }
        // The preset puts a space before the first column and fills the last one.
        let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
        self.line(&lines.join("\n"))
    }

    /// A line of text.
    pub(crate) fn line(self, text: &str) -> io::Result<()> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Bytes as they are, at once.
    pub(crate) fn bytes(self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }
}

/// A column of a table.
pub(crate) struct Column {
    /// Its heading.
    pub(crate) title: &'static str,
    /// The cell of an item.
    pub(crate) show: fn(&Value) -> String,
}

/// A member as it is, or `-`.
pub(crate) fn text(item: &Value, member: &str) -> String {
    match &item[member] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        value => value.to_string(),
    }
}

/// A number of bytes in the largest unit that leaves something before the point.
pub(crate) fn bytes_text(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A message beside the results.
pub(crate) fn note(text: &str) {
    // Nobody can be told that standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Shows why the program failed.
pub(crate) fn fail(error: &anyhow::Error, is_json: bool) -> ExitCode {
    if is_json {
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        note(&json!({ "error": error.to_string(), "causes": causes }).to_string());
    } else {
        note(&format!("error: {error}"));
        for cause in error.chain().skip(1) {
            note(&format!("  because: {cause}"));
        }
    }
    ExitCode::FAILURE
}

/// Whether the reader of the results has gone, as `calypte ls | head -1` does.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
