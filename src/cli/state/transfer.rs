//! `state export` and `state import`: a whole ledger as JSON Lines.
//!
//! ```text
//! {"export":"cognito-auth-exporter state","version":1,"exporter":"0.1.0","exported_at":"2026-11-25T12:00:00.000Z"}
//! {"record":"pool","user_pool_id":"eu-west-1_A","value":"AY7..."}
//! {"record":"user","user_pool_id":"eu-west-1_A","username":"ann","value":"Ab0..."}
//! ... in any order: ledger (name), total (series), gone (username), outbox (number), quarantine (number)
//! {"records":2,"sha256":"..."}
//! ```
//!
//! `value` is the stored record in base64, with its own version and checksum. So an export of an older build is
//! migrated like a ledger of that build. The last line has the number of records and the SHA-256 of all lines before
//! it, in hexadecimal. An export without that line, or with another sum, is incomplete and is refused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cognito_auth_core::event::UnixMillis;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::progress::Progress;
use super::super::state_command::{require_yes, say};
use crate::config::StateConfig;
use crate::control::CommandStatus;
use crate::ledger::{Ledger, RecordName};

/// The member `export` of the first line, which identifies the file.
const EXPORT: &str = "cognito-auth-exporter state";

/// The version of the file format. Each record has its own version.
const VERSION: u32 = 1;

/// The longest line that is read, in bytes. The record of a user under attack has some hundred thousand bytes. An event
/// with every member as long as Cognito allows has fewer.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// The first line.
#[derive(Serialize, Deserialize)]
struct ExportHeader {
    export: String,
    version: u32,
    exporter: String,
    exported_at: String,
}

/// The line of a record.
#[derive(Serialize, Deserialize)]
struct ExportedRecord {
    #[serde(flatten)]
    name: RecordName,
    value: String,
}

/// The last line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportFooter {
    records: u64,
    sha256: String,
}

/// Writes the lines of an export, and computes their checksum.
struct ExportWriter<W> {
    out: W,
    sum: Sha256,
}

impl<W: Write> ExportWriter<W> {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.sum.update(&text);
        self.out.write_all(&text)
    }
}

pub(super) fn export(ledger: &Ledger, now: UnixMillis) -> anyhow::Result<CommandStatus> {
    let mut out = ExportWriter { out: BufWriter::new(io::stdout().lock()), sum: Sha256::new() };
    out.line(&ExportHeader {
        export: EXPORT.to_owned(),
        version: VERSION,
        exporter: env!("CARGO_PKG_VERSION").to_owned(),
        exported_at: now.to_string(),
    })?;
    let mut progress = Progress::beside_output("records exported", None);
    let (mut records, mut left_out, mut written) = (0, 0_u64, Ok(()));
    ledger.each_record(|name, value, wrong| {
        progress.advance(1);
        match (name, wrong) {
            (Some(name), None) => {
                records += 1;
                written = out.line(&ExportedRecord { name, value: BASE64_STANDARD.encode(value) });
            }
            _ => left_out += 1,
        }
        written.is_ok()
    })?;
    drop(progress);
    written?;
    let footer = ExportFooter { records, sha256: hexadecimal(out.sum.clone()) };
    out.line(&footer)?;
    out.out.flush()?;
    say(&format!("exported: {records} records; the file holds personal data"));
    if left_out > 0 {
        say(&format!("left out, because they are damaged: {left_out} records (see `state verify`)"));
        return Ok(CommandStatus::Failure);
    }
    Ok(CommandStatus::Success)
}

pub(super) fn import(state: &StateConfig, file: &Path, yes: bool) -> anyhow::Result<CommandStatus> {
    let mut lines: ExportReader<Box<dyn BufRead>> = if file == Path::new("-") {
        ExportReader::of(Box::new(BufReader::new(io::stdin())))
    } else {
        let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        ExportReader::of(Box::new(BufReader::new(opened)))
    };
    let header = lines.next()?.and_then(|line| serde_json::from_slice::<ExportHeader>(&line).ok());
    let header = header.filter(|header| header.export == EXPORT).ok_or_else(|| {
        anyhow!("{} is no export: its first line does not say {EXPORT:?}; nothing was done", file.display())
    })?;
    if header.version > VERSION {
        bail!(
            "the export has version {}, this build knows {VERSION}: run the newer build again; nothing was done",
            header.version
        );
    }
    let from = format!("the export of version {} of {}", header.exporter, header.exported_at);
    if !yes && Ledger::exists(state)? {
        return Ok(require_yes(&format!(
            "would replace the ledger in {}, which is moved aside and kept, by {from}",
            state.path.display()
        )));
    }
    let mut import = Ledger::import(state)?;
    let mut progress = Progress::of("records imported", None);
    let mut records = 0;
    let footer = loop {
        let number = lines.number + 1;
        let sum = hexadecimal(lines.sum.clone());
        let line = lines.next()?.ok_or_else(|| anyhow!("the export is cut short: its last line is missing"));
        let line = line.context(UNTOUCHED)?;
        if let Ok(footer) = serde_json::from_slice::<ExportFooter>(&line) {
            if footer.sha256 != sum || footer.records != records {
                bail!("{UNTOUCHED}: the export was changed: its checksum does not match");
            }
            break footer;
        }
        let read = serde_json::from_slice::<ExportedRecord>(&line).map_err(anyhow::Error::from).and_then(|line| {
            let value = BASE64_STANDARD.decode(&line.value)?;
            Ok(import.add(&line.name, value)?)
        });
        read.with_context(|| format!("{UNTOUCHED}: line {number} of the export"))?;
        records += 1;
        progress.advance(1);
    };
    drop(progress);
    let replaced = import.finish().context(UNTOUCHED)?;
    say(&format!("imported: {} records, {from}", footer.records));
    if let Some(replaced) = replaced {
        say(&format!("the replaced ledger is kept in {}: remove it when it is not needed", replaced.display()));
    }
    Ok(CommandStatus::Success)
}

/// The state after a failed import.
const UNTOUCHED: &str = "nothing was imported, and the ledger that is there is untouched";

/// Reads the lines of an export, and computes their checksum.
struct ExportReader<R> {
    read: R,
    sum: Sha256,
    number: u64,
}

impl<R: BufRead> ExportReader<R> {
    fn of(read: R) -> Self {
        Self { read, sum: Sha256::new(), number: 0 }
    }

    fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let len = self.read.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).context("cannot read")?;
        if len as u64 == LINE_BYTES_MAX {
            bail!("{UNTOUCHED}: line {} is longer than {} MiB", self.number + 1, LINE_BYTES_MAX >> 20);
        }
        self.number += 1;
        self.sum.update(&line);
        Ok((len > 0).then_some(line))
    }
}

fn hexadecimal(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
