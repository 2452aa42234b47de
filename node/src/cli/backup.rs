//! `backup` and `restore`: all functions with their history and their bytes, to a file and back.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use futures::TryStreamExt as _;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use swarmer_model::{Digest, Function};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::{
    backup::{Contents, Header, Piece, Writer, components, verify},
    cli::{
        Ask, Client, Printer,
        client::{broke_off, full},
    },
    codes,
    problem::{Outcome, Problem},
};

/// How long an answer may stand still.
const IDLE_DEADLINE: Duration = Duration::from_secs(30);
/// The longest line of the list of functions: a value of the desired state has at most 8 KiB.
const MAX_LINE_BYTES: usize = 64 << 10;
/// How many names an error tells.
const MAX_NAMED: usize = 16;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer backup monday.backup\n  \
    swarmer backup latest.backup --force   # in place of the one before\n\n\
    The file holds all functions of all namespaces at one revision, with every version and its\n\
    component. It does not hold keys, tokens and nodes: those are the cluster's own. Environment\n\
    variables of functions are in it, so the file is for its owner only.")]
pub(crate) struct Backup {
    /// The file to write
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer restore monday.backup --verify-only   # is every byte as it was written?\n  \
    swarmer restore monday.backup\n\n\
    Nothing is sent before the whole file was verified, and nothing is changed if the cluster has\n\
    another function of a name or route that is in it. A restore that broke off may be repeated.")]
pub(crate) struct Restore {
    /// The file that `swarmer backup` wrote
    file: PathBuf,
    /// Only read the file and say whether it is whole; no node is asked
    #[arg(long)]
    verify_only: bool,
}

fn unwritten(path: &Path, error: &io::Error) -> Problem {
    Problem::new(codes::FILE_WRITE, format!("{}: {error}", path.display()))
}

fn is_there(path: &Path) -> Problem {
    Problem::new(codes::FILE_EXISTS, format!("{} is there already", path.display()))
}

impl Ask for Backup {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let path = &self.file;
        if !self.force && path.symlink_metadata().is_ok() {
            return Err(is_there(path));
        }
        let fail = |error: io::Error| unwritten(path, &error);
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // For its owner only (0600), and gone if this does not reach its end.
        let temporary = tempfile::Builder::new()
            .prefix(".swarmer-backup-")
            .tempfile_in(folder)
            .map_err(fail)?;
        let contents = self.take(client, printer, temporary.as_file()).await?;
        if self.force {
            temporary.persist(path).map_err(|error| fail(error.error))?;
        } else {
            temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => is_there(path),
                _ => fail(error.error),
            })?;
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
        tell(printer, path, &contents, "")
    }
}

impl Backup {
    /// Writes the backup, makes it durable, and reads it again as a restore will.
    async fn take(&self, client: &Client, printer: &Printer, mut file: &File) -> Outcome<Contents> {
        let fail = |error: io::Error| unwritten(&self.file, &error);
        let response = client.open(Request::builder(), "/v1/backup", full(Bytes::new())).await?;
        let mut lines = Lines { body: response.into_body(), buffer: Vec::new() };
        let line = lines.next().await?.ok_or_else(|| broke_off("it is empty"))?;
        let header: Header = understand(&line)?;
        let mut writer = Writer::new(BufWriter::new(file), &header).map_err(fail)?;
        let mut needed = BTreeSet::new();
        let mut count = 0;
        while let Some(line) = lines.next().await? {
            needed.extend(components(&understand::<Function>(&line)?));
            writer.function(&line).map_err(fail)?;
            count += 1;
        }
        if count != header.functions {
            return Err(broke_off(&format!("{count} of {} functions came", header.functions)));
        }
        printer.progress(&format!("{count} function(s) at revision {}", header.revision));
        for digest in needed {
            fetch(client, digest, &mut writer, &self.file).await?;
        }
        writer.finish().and_then(|_| file.sync_all()).map_err(fail)?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        verify(&mut file)
    }
}

/// Copies an artifact from the cluster into the file.
async fn fetch<W: Write>(
    client: &Client,
    digest: Digest,
    writer: &mut Writer<W>,
    path: &Path,
) -> Outcome<()> {
    let fail = |error: io::Error| unwritten(path, &error);
    let doing = |problem: Problem| problem.while_doing(&format!("component {}", digest.short()));
    let url = format!("/v1/artifacts/{digest}");
    let response =
        client.open(Request::builder(), &url, full(Bytes::new())).await.map_err(doing)?;
    let length = response.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let length = length.ok_or_else(|| doing(broke_off("it does not say how long it is")))?;
    writer.begin_artifact(digest, length).map_err(fail)?;
    let mut body = response.into_body();
    while let Some(bytes) = next(&mut body).await.map_err(doing)? {
        writer.bytes(&bytes).map_err(fail)?;
    }
    Ok(())
}

/// The next bytes of an answer; none at its end.
async fn next(body: &mut Incoming) -> Outcome<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(IDLE_DEADLINE, body.frame())
            .await
            .map_err(|_| broke_off(&format!("nothing came for {} s", IDLE_DEADLINE.as_secs())))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(broke_off(&error.to_string())),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

fn understand<T: serde::de::DeserializeOwned>(line: &[u8]) -> Outcome<T> {
    serde_json::from_slice(line).map_err(|error| {
        let why = format!("this version does not understand what the node tells: {error}");
        Problem::new(codes::FAILED, why)
    })
}

/// An answer, line by line.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Outcome<Option<Vec<u8>>> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.buffer[seen..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(seen + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            seen = self.buffer.len();
            if seen > MAX_LINE_BYTES {
                return Err(broke_off(&format!("a line has more than {MAX_LINE_BYTES} bytes")));
            }
            match next(&mut self.body).await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if seen > 0 => return Err(broke_off("its last line has no end")),
                None => return Ok(None),
            }
        }
    }
}

impl Ask for Restore {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let path = &self.file;
        let doing = |problem: Problem| problem.while_doing(&path.display().to_string());
        let mut file = File::open(path).map_err(|error| {
            Problem::new(codes::FILE, format!("cannot read {}: {error}", path.display()))
        })?;
        let contents = verify(&mut file).map_err(doing)?;
        if self.verify_only {
            return tell(printer, path, &contents, "whole: ");
        }
        may_restore(client, &contents.functions).await?;
        for piece in &contents.artifacts {
            let short = piece.digest.short();
            printer.progress(&format!("uploading {} bytes ({short})", piece.length));
            let sent = upload(client, path, piece).await;
            sent.map_err(|problem| problem.while_doing(&format!("component {short}")))?;
        }
        let mut items = Vec::new();
        for function in &contents.functions {
            let doing = format!("restoring {}", function.id());
            let answer = send(client, "/v1/restore", function).await;
            items.push(answer.map_err(|problem| problem.while_doing(&doing))?);
        }
        if !printer.is_table() {
            return printer.value(&json!({ "items": items }));
        }
        let line = |item: &Value| {
            let what = if item["existed"] == true { "was there already" } else { "restored" };
            format!("{} {what}\n", item["function"].as_str().unwrap_or_default())
        };
        printer.text(&items.iter().map(line).collect::<String>())
    }
}

/// Asks whether every function could be restored, before anything is changed.
async fn may_restore(client: &Client, functions: &[Function]) -> Outcome<()> {
    let mut there = Vec::new();
    for function in functions {
        match send(client, "/v1/restore?dryRun=true", function).await {
            Ok(_) => {}
            Err(problem) if problem.code == codes::EXISTS => there.push(function.id()),
            Err(problem) => return Err(problem.while_doing(&format!("of {}", function.id()))),
        }
    }
    if there.is_empty() {
        return Ok(());
    }
    let more = match there.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    there.truncate(MAX_NAMED);
    let detail = format!(
        "the cluster has {}{more}, not as in the backup; nothing was changed",
        there.join(", ")
    );
    Err(Problem::new(codes::EXISTS, detail))
}

async fn send(client: &Client, path: &str, function: &Function) -> Outcome<Value> {
    let body = serde_json::to_value(function)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    client.json(Method::POST, path, &body).await
}

/// Sends an artifact. The node digests it: should the file have changed since it was verified, the
/// node does not take it.
async fn upload(client: &Client, path: &Path, piece: &Piece) -> Outcome<()> {
    let fail = |error: io::Error| {
        Problem::new(codes::FILE, format!("cannot read {}: {error}", path.display()))
    };
    let mut file = tokio::fs::File::open(path).await.map_err(fail)?;
    file.seek(SeekFrom::Start(piece.offset)).await.map_err(fail)?;
    let stream = ReaderStream::new(file.take(piece.length)).map_ok(Frame::data);
    let request = Request::builder()
        .method(Method::PUT)
        .header(header::CONTENT_TYPE, "application/wasm")
        .header(header::CONTENT_LENGTH, piece.length);
    let body = StreamBody::new(stream).boxed_unsync();
    client.exchange(request, &format!("/v1/artifacts/{}", piece.digest), body).await?;
    Ok(())
}

/// Says what a backup holds.
fn tell(printer: &Printer, path: &Path, contents: &Contents, how: &str) -> Outcome<()> {
    let Contents { header, functions, artifacts } = contents;
    let bytes: u64 = artifacts.iter().map(|piece| piece.length).sum();
    if !printer.is_table() {
        return printer.value(&json!({
            "file": path, "cluster": header.cluster, "revision": header.revision,
            "taken": header.taken, "software": header.software,
            "functions": functions.iter().map(Function::id).collect::<Vec<_>>(),
            "components": artifacts.len(), "componentBytes": bytes,
        }));
    }
    printer.text(&format!(
        "{}: {how}{} function(s), {} component(s) of {bytes} bytes, revision {} of cluster {} at {}\n",
        path.display(),
        functions.len(),
        artifacts.len(),
        header.revision,
        header.cluster,
        header.taken,
    ))
}
