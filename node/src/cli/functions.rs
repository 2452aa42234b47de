//! `invoke` and `rollout`.

use clap::{Args, Subcommand};
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use swarmer_model::DEFAULT_NAMESPACE;

use crate::{
    cli::{
        Ask, Asking, Client, ClientOptions, Format, Printer,
        client::{full, segment},
        output::at,
        rollout::until_it_serves,
    },
    codes,
    problem::{Outcome, Problem, chain},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer invoke hello --include\n  \
    swarmer invoke shop --path /orders --data '{}' --header content-type:application/json")]
pub(crate) struct Invoke {
    /// The function's name
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Method [default: GET, or POST with --data]
    #[arg(short = 'X', long)]
    method: Option<Method>,
    /// Path behind the function's route
    #[arg(long, default_value = "")]
    path: String,
    /// Body
    #[arg(short, long)]
    data: Option<String>,
    /// Header, "name: value"; may be given several times
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Show the answer's status and headers too
    #[arg(short, long)]
    include: bool,
    #[command(flatten)]
    pub(crate) client: ClientOptions,
}

impl Invoke {
    pub(crate) async fn run(&self, client: &Client) -> Outcome<()> {
        let path = format!(
            "/v1/namespaces/{}/functions/{}/invoke{}",
            segment(&self.namespace),
            segment(&self.name),
            self.path
        );
        let default = if self.data.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(self.method.clone().unwrap_or(default));
        for line in &self.headers {
            let Some((name, value)) = line.split_once(':') else {
                let why = format!("--header {line:?}: must be \"name: value\"");
                return Err(Problem::new(codes::USAGE, why));
            };
            request = request.header(name.trim(), value.trim());
        }
        if self.data.is_some()
            && !self.headers.iter().any(|h| h.to_lowercase().starts_with("content-type"))
        {
            request = request.header(header::CONTENT_TYPE, "text/plain");
        }
        let body = full(self.data.clone().unwrap_or_default());
        let response = client.send(request, &path, body).await?;
        let (head, mut body) = response.into_parts();
        let printer = Printer::new(Format::Table);
        if self.include {
            let mut text = format!("HTTP {}\n", head.status);
            for (name, value) in &head.headers {
                text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
            }
            printer.text(&format!("{text}\n"))?;
        }
        let made_here = head.headers.get("x-swarmer-error").is_some();
        let by = head.headers.get("x-swarmer-node").and_then(|node| node.to_str().ok());
        let (mut problem, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken_off(&self.name, by, bytes, &error))?;
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len();
            if made_here && problem.len() < 64 << 10 {
                problem.extend_from_slice(&data);
            } else {
                printer.bytes(&data)?;
            }
        }
        if made_here {
            return Err(Problem::from_document(head.status.as_u16(), &problem));
        }
        if head.status.is_client_error() || head.status.is_server_error() {
            return Err(Problem::new(
                codes::FAILED,
                format!("the function answered {}", head.status),
            ));
        }
        Ok(())
    }
}

/// The head of the answer was there, its end never came.
fn broken_off(name: &str, by: Option<&str>, bytes: usize, error: &hyper::Error) -> Problem {
    let on = by.map(|node| format!(" on node {node}")).unwrap_or_default();
    let why = format!("{name}{on} broke its answer off after {bytes} bytes: {}", chain(error));
    Problem::new(codes::BROKEN_OFF, why)
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer rollout status hello\n  \
    swarmer rollout undo hello")]
pub(crate) struct Rollout {
    #[command(subcommand)]
    pub(crate) command: RolloutCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Show the versions and their shares
    Status(Asking<RolloutStatus>),
    /// Bring back the version before
    Undo(Asking<Undo>),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer rollout status hello\n  \
    swarmer rollout status hello --namespace shop -o json")]
pub(crate) struct RolloutStatus {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    swarmer rollout undo hello")]
pub(crate) struct Undo {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// The function's name
    name: String,
    #[arg(short, long, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

impl Which {
    fn path(&self) -> String {
        format!("/v1/namespaces/{}/functions/{}", segment(&self.namespace), segment(&self.name))
    }
}

impl Ask for RolloutStatus {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let function: Value = client.get(&self.which.path()).await?;
        let versions = at(&function, "live.versions").as_array().cloned();
        printer.list(
            &versions.unwrap_or_default(),
            &[
                ("VERSION", "number"),
                ("COMPONENT", "component"),
                ("WEIGHT", "weight"),
                ("WANTED", "wantedWeight"),
                ("READY", "ready"),
            ],
        )
    }
}

impl Ask for Undo {
    async fn ask(&self, client: &Client, printer: &Printer) -> Outcome<()> {
        let (which, path) = (&self.which, self.which.path());
        let accepted =
            client.json(Method::POST, &format!("{path}/rollout/undo"), &json!({})).await?;
        let answer = until_it_serves(client, printer, &path, &which.name, &accepted).await?;
        if printer.is_table() {
            let version = at(&answer, "live.version");
            printer.text(&format!("{} is back at version {version}\n", which.name))
        } else {
            printer.value(&answer)
        }
    }
}
