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
//! `value` is the record as the ledger has it, in base64: with its own version and checksum, so that what an older build
//! exported is migrated as its ledger would be. The last line has the SHA-256 of everything in front of it, in hexadecimal;
//! without that line, or with another sum, the export is not whole and is refused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cognito_auth_core::event::UnixMillis;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::progress::Progress;
use super::{hesitate, tell};
use crate::config::StateConfig;
use crate::ledger::{Ledger, RecordName};

/// What the first line says it is.
const EXPORT: &str = "cognito-auth-exporter state";

/// The version of the form; of what is in the records these know themselves.
const VERSION: u32 = 1;

/// The longest line that is read, in bytes. A user under attack has some hundred thousand, an event with every member as
/// long as Cognito allows fewer.
const LINE_BYTES_MAX: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Head {
    export: String,
    version: u32,
    exporter: String,
    exported_at: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    name: RecordName,
    value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LowerEdge {
    records: u64,
    sha256: String,
}

/// What is written, summed.
struct Summed<W> {
    out: W,
    sum: Sha256,
}

impl<W: Write> Summed<W> {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.sum.update(&text);
        self.out.write_all(&text)
    }
}

pub(super) fn export(ledger: &Ledger, now: UnixMillis) -> anyhow::Result<ExitCode> {
    let mut out = Summed { out: BufWriter::new(io::stdout().lock()), sum: Sha256::new() };
    out.line(&Head {
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
                written = out.line(&Line { name, value: BASE64_STANDARD.encode(value) });
            }
            _ => left_out += 1,
        }
        written.is_ok()
    })?;
    drop(progress);
    written?;
    let lower_edge = LowerEdge { records, sha256: hexadecimal(out.sum.clone()) };
    out.line(&lower_edge)?;
    out.out.flush()?;
    tell(&format!("exported: {records} records; the file holds personal data"));
    if left_out > 0 {
        tell(&format!("left out, because they are damaged: {left_out} records (see `state verify`)"));
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn import(state: &StateConfig, file: &Path, yes: bool) -> anyhow::Result<ExitCode> {
    let mut lines: Lines<Box<dyn BufRead>> = if file == Path::new("-") {
        Lines::of(Box::new(BufReader::new(io::stdin())))
    } else {
        let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        Lines::of(Box::new(BufReader::new(opened)))
    };
    let head = lines.next()?.and_then(|line| serde_json::from_slice::<Head>(&line).ok());
    let head = head.filter(|head| head.export == EXPORT).ok_or_else(|| {
        anyhow!("{} is no export: its first line does not say {EXPORT:?}; nothing was done", file.display())
    })?;
    if head.version > VERSION {
        bail!(
            "the export has version {}, this build knows {VERSION}: run the newer build again; nothing was done",
            head.version
        );
    }
    let from = format!("what version {} exported at {}", head.exporter, head.exported_at);
    if !yes && Ledger::exists(state)? {
        return Ok(hesitate(&format!(
            "would put {from} in the place of the ledger in {}, which is moved aside and kept",
            state.path.display()
        )));
    }
    let mut import = Ledger::import(state)?;
    let mut progress = Progress::of("records imported", None);
    let mut records = 0;
    let lower_edge = loop {
        let number = lines.number + 1;
        let sum = hexadecimal(lines.sum.clone());
        let line = lines.next()?.ok_or_else(|| anyhow!("the export is cut short: its last line is missing"));
        let line = line.context(UNTOUCHED)?;
        if let Ok(lower_edge) = serde_json::from_slice::<LowerEdge>(&line) {
            if lower_edge.sha256 != sum || lower_edge.records != records {
                bail!("{UNTOUCHED}: the export is not what was exported: its checksum is another");
            }
            break lower_edge;
        }
        let read = serde_json::from_slice::<Line>(&line).map_err(anyhow::Error::from).and_then(|line| {
            let value = BASE64_STANDARD.decode(&line.value)?;
            Ok(import.add(&line.name, value)?)
        });
        read.with_context(|| format!("{UNTOUCHED}: line {number} of the export"))?;
        records += 1;
        progress.advance(1);
    };
    drop(progress);
    let replaced = import.finish().context(UNTOUCHED)?;
    tell(&format!("imported: {} records, {from}", lower_edge.records));
    if let Some(replaced) = replaced {
        tell(&format!("the ledger that was there lies in {}: remove it when it is not needed", replaced.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a mistake leaves behind.
const UNTOUCHED: &str = "nothing was imported, and the ledger that is there is untouched";

/// Lines that are read, summed.
struct Lines<R> {
    read: R,
    sum: Sha256,
    number: u64,
}

impl<R: BufRead> Lines<R> {
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
