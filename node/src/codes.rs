//! The codes of this crate, and the list of all codes of the product.

use swarmer_model::Code;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $summary:literal, $remedy:literal;)*) => {
        $($(#[$doc])* pub(crate) const $name: Code = Code::new($text, $status, $summary, $remedy);)*
        const OWN: &[Code] = &[$($name),*];
    };
}

codes! {
    CONFIG = "SW-NODE-CONFIG", 400,
        "The configuration cannot be used.",
        "Correct the setting that the message names; `swarmer node --help` lists them all.";
    PORT_IN_USE = "SW-NODE-PORT-IN-USE", 500,
        "Another program holds the port.",
        "Stop that program, or give another port by the flag that the message names.";
    DATA_DIR = "SW-NODE-DATA-DIR", 500,
        "The data directory cannot be used.",
        "Check its path, owner and free space.";
    DATA_DIR_LOCKED = "SW-NODE-DATA-DIR-LOCKED", 500,
        "Another node runs on this data directory.",
        "Stop the other node, or give each node a directory of its own by --data-dir.";
    DATA_DIR_FOREIGN = "SW-NODE-DATA-DIR-FOREIGN", 500,
        "The data directory belongs to another node or cluster, or to a newer version.",
        "Give the directory that this node wrote, or an empty one to join as a new member.";
    LOG_LOST = "SW-NODE-LOG-LOST", 500,
        "The node's log is not the one that it had, so it may have forgotten what it promised with its vote.",
        "Bring the whole data directory back; if it is lost, remove the node (`swarmer delete node NAME`) and let it join anew with an empty one.";
    NOT_RECOVERABLE = "SW-NODE-NOT-RECOVERABLE", 409,
        "The cluster cannot go on from this node's directory.",
        "Take the directory of a node that was a voter when it ended.";
    NOT_CONFIRMED = "SW-CLI-NOT-CONFIRMED", 400,
        "This loses data for good, and it was not confirmed.",
        "Give --force and type the cluster's id, or give --yes-lose-data in scripts.";
    REGION_HELD = "SW-CLI-REGION-HELD", 409,
        "Copies stay in a drained region: they fit nowhere else, or not yet.",
        "Make room in other regions, or let the functions that the message names stand in them; the drain goes on by itself.";
    STORAGE = "SW-NODE-STORAGE", 507,
        "The disk did not take or give back what it should.",
        "Check free space and the kernel log; a disk that fails must be replaced.";
    TOKEN = "SW-NODE-TOKEN", 401,
        "The token is not good for this.",
        "Make a new one with `swarmer token create`, or `swarmer token bootstrap` for a new cluster.";
    NO_TOKEN = "SW-NODE-NO-TOKEN", 400,
        "This node belongs to no cluster and has no token to get into one.",
        "Give --token-file with a token of `swarmer token create` (join) or `swarmer token bootstrap` (found).";
    JOIN_REFUSED = "SW-NODE-JOIN-REFUSED", 403,
        "The cluster does not admit this node.",
        "Look at the reason; in most cases a new token of `swarmer token create` helps.";
    CLAIM = "SW-NODE-CLAIM", 403,
        "The node claims a region, zone or label that its token does not admit.",
        "Start it without the claim, or make a token for it: `swarmer token create --region R --zone Z --label k=v`.";
    ADVERTISE = "SW-NODE-ADVERTISE", 503,
        "The node cannot be reached where it says that it is.",
        "Give --advertise with the address at which the others reach it, and let UDP pass to that port.";
    NAME_TAKEN = "SW-NODE-NAME-TAKEN", 409,
        "Another member has this name.",
        "Give another --name, or remove the old member with `swarmer delete node NAME`.";
    AUDIT_UNWRITABLE = "SW-AUDIT-UNWRITABLE", 507,
        "The node cannot write its audit log, so it takes no changes.",
        "Make room on its disk, or send the change to another node.";
    AUDIT_DAMAGED = "SW-AUDIT-DAMAGED", 500,
        "The audit log is not as it was written.",
        "Keep the files of that node's data directory for an inquiry; records before the place that is named are good.";
    UNAUTHORIZED = "SW-API-UNAUTHORIZED", 401,
        "The API wants a token here.",
        "Give one by --token or SWARMER_TOKEN; `swarmer token create --api` makes one.";
    FORBIDDEN = "SW-API-FORBIDDEN", 403,
        "The token may not do this.",
        "Use a token with the role, or the namespace, that the message names.";
    BROWSER = "SW-API-BROWSER", 403,
        "The request may be one that a web page makes in somebody's browser.",
        "Ask by the node's address or as localhost, or serve the API with TLS and tokens.";
    NOT_FOUND = "SW-API-NOT-FOUND", 404,
        "There is no such thing.",
        "Check the name and the namespace; `swarmer get KIND` lists what there is.";
    NO_ENDPOINT = "SW-API-NO-ENDPOINT", 404,
        "The API has no such path.",
        "The paths are listed at /v1/openapi.json.";
    BAD_REQUEST = "SW-API-BAD-REQUEST", 400,
        "The request cannot be understood.",
        "Correct what the message names.";
    CONFLICT = "SW-API-CONFLICT", 409,
        "Somebody else changed it in between.",
        "Read it again, apply your change to what it is now, and send that.";
    EXISTS = "SW-API-EXISTS", 409,
        "There is another one of this name already.",
        "Delete that one first if it is not needed, or restore into a cluster without it.";
    VOTE_NEEDED = "SW-API-VOTE-NEEDED", 409,
        "The node cannot leave: without its vote nothing could be decided any more.",
        "Bring dead voters back, or let another node join, and try again; if a majority is gone for good, `swarmer recover` is the way out.";
    VOTE_MOVES = "SW-API-VOTE-MOVES", 503,
        "The node's vote has not moved to another node yet; until then the node stays.",
        "Send it again in a moment; `swarmer status` shows the voters.";
    ROUTE_TAKEN = "SW-API-ROUTE-TAKEN", 409,
        "Another function has this route.",
        "Choose another path or host, or delete the function that holds the route.";
    NEAR_CIRCLE = "SW-API-NEAR-CIRCLE", 422,
        "Functions are to be placed near each other in a circle.",
        "Leave `near` out of one of those that the message names; the others go where it stands.";
    LEASE_HELD = "SW-LEASE-HELD", 409,
        "Somebody holds the lease.",
        "Wait until it is released or not renewed in time, and try again; `swarmer lease list` shows who holds it.";
    LEASE_LOST = "SW-LEASE-LOST", 409,
        "The lease is not held with this token any more.",
        "Stop what it guards; acquire it anew, which gives another token.";
    METHOD = "SW-API-METHOD", 405,
        "The path is there, but not for this method.",
        "The methods of each path are listed at /v1/openapi.json.";
    BODY_TOO_LARGE = "SW-API-BODY-TOO-LARGE", 413,
        "The document is larger than the API reads.",
        "Make it smaller; bulk goes into artifacts.";
    BUSY = "SW-API-BUSY", 503,
        "The node does too much of this at once already.",
        "Try again in a moment, or ask another node.";
    DEADLINE = "SW-API-DEADLINE", 504,
        "It took longer than the API waits.",
        "Try again; what was begun may be done all the same.";
    NOT_READY = "SW-NODE-NOT-READY", 503,
        "The node is not yet, or no longer, a serving member.",
        "The message says what it waits for; another node may answer.";
    ARTIFACT_MISSING = "SW-ARTIFACT-MISSING", 422,
        "No node holds the component's bytes.",
        "Upload them first: `swarmer deploy` does, or PUT /v1/artifacts/DIGEST.";
    ARTIFACT_DIGEST = "SW-ARTIFACT-DIGEST", 422,
        "The bytes are not those of the digest.",
        "Upload again: the transfer was damaged, or the digest is of another file.";
    ARTIFACT_TOO_LARGE = "SW-ARTIFACT-TOO-LARGE", 413,
        "The component is larger than this cluster takes.",
        "Make it smaller (strip, opt-level=\"s\"), or raise --max-component on every node.";
    ARTIFACT_TRUNCATED = "SW-ARTIFACT-TRUNCATED", 400,
        "The upload ended before its last byte.",
        "Upload again.";
    CHAOS_BROKEN = "SW-CHAOS-BROKEN", 500,
        "Under faults the cluster lost what it had acknowledged, or did not become whole again.",
        "Look at `swarmer doctor` and the nodes' logs; a node that crashed must be started again by whatever runs it.";
    FAULT_NOT_ALLOWED = "SW-FAULT-NOT-ALLOWED", 403,
        "The node does not let faults be struck.",
        "Start every node with --allow-faults, on a cluster that may fail: `swarmer chaos` breaks it on purpose.";
    ARTIFACT_COPY = "SW-ARTIFACT-COPY", 503,
        "A component's bytes did not get from one node to another.",
        "Try again: other nodes are asked then. If it stays, `swarmer doctor` and the log of the node that is named say why.";
    NO_ROUTE = "SW-MESH-NO-ROUTE", 404,
        "No function has a route for this host and path.",
        "`swarmer get functions` shows the routes that there are.";
    NO_UPSTREAM = "SW-MESH-NO-UPSTREAM", 503,
        "No node can serve this function now.",
        "`swarmer describe function NAME` tells which nodes should, and why they do not.";
    SWITCHED_OFF = "SW-MESH-SWITCHED-OFF", 503,
        "The function is switched off: its concurrency is 0.",
        "Deploy it with a concurrency above 0.";
    TOO_MANY_HOPS = "SW-MESH-TOO-MANY-HOPS", 508,
        "The call went through too many functions.",
        "Look for functions that call each other in a circle.";
    NO_ROOM = "SW-NODE-NO-ROOM", 503,
        "The function has no copy, and no node that could start one has room for it.",
        "See what each node lacks with `swarmer explain placement NAME`; add nodes, raise their \
         --capacity-…, or give the function a higher `priority`.";
    DRAINING = "SW-NODE-DRAINING", 503,
        "The node is being emptied and takes no new work.",
        "Send the request to another node.";
    OUTGOING_FAILED = "SW-MESH-OUTGOING-FAILED", 502,
        "The destination outside the cluster did not answer.",
        "Check that the address is right and reachable from the node that the message names.";
    UNREACHABLE = "SW-CLI-UNREACHABLE", 503,
        "The node's API cannot be reached.",
        "Check that a node runs there, and --addr or SWARMER_ADDR.";
    BROKEN_OFF = "SW-CLI-BROKEN-OFF", 500,
        "The function's answer ended before its end.",
        "What was printed is not all of it; `swarmer logs NAME` says what became of the function.";
    USAGE = "SW-CLI-USAGE", 400,
        "The command cannot be understood.",
        "`swarmer help COMMAND` shows how it is used, with examples.";
    FILE = "SW-CLI-FILE", 404,
        "The file cannot be read.",
        "Check its path, and that you may read it.";
    NO_COMPONENT = "SW-CLI-NO-COMPONENT", 422,
        "The file is no WebAssembly component.",
        "Give the binary component that a tool chain made; the README says how.";
    BUILD = "SW-CLI-BUILD", 422,
        "The build of a component failed.",
        "What the command printed says why; it is `build` of the function in swarmer.toml.";
    FILE_EXISTS = "SW-CLI-FILE-EXISTS", 409,
        "The file is there already.",
        "Give another path, or --force to replace it.";
    FILE_WRITE = "SW-CLI-FILE-WRITE", 507,
        "The file cannot be written.",
        "Check its folder, that you may write there, and the free space.";
    BACKUP_DAMAGED = "SW-CLI-BACKUP-DAMAGED", 422,
        "The file is no backup, or not all of it is as it was written.",
        "Use another copy of it; nothing was changed.";
    BACKUP_NEWER = "SW-CLI-BACKUP-NEWER", 422,
        "The backup was written by a newer version.",
        "Use the version of `swarmer` that wrote it, or a newer one; nothing was changed.";
    OUTPUT_CLOSED = "SW-CLI-OUTPUT-CLOSED", 499,
        "Nobody reads what the command prints any more.",
        "Nothing, if that was meant, as with `| head`; it ended where it was.";
    MANIFEST = "SW-CLI-MANIFEST", 422,
        "The manifest cannot be used.",
        "Correct the line that the message names.";
    FAILED = "SW-CLI-FAILED", 500,
        "The command did not reach its end.",
        "The message says what happened.";
    UNHEALTHY = "SW-CLI-UNHEALTHY", 500,
        "`swarmer doctor` found something broken.",
        "Each of the things that it lists says what to do.";
    ROLLOUT_FAILED = "SW-ROLLOUT-FAILED", 500,
        "The new version does not serve.",
        "The message says what stopped it: correct that and deploy again. What served before goes on.";
    ROLLOUT_OVERTAKEN = "SW-ROLLOUT-OVERTAKEN", 409,
        "Another change of the function came after this one, and counts.",
        "Look at what serves with `swarmer rollout status NAME`; deploy again if this one is to serve.";
    INTERNAL = "SW-NODE-INTERNAL", 500,
        "The node met a state that it should never meet.",
        "Please report it with the node's log.";
}

/// The code of this name, as another node or a document tells it.
pub(crate) fn by_name(name: &str) -> Option<Code> {
    all().into_iter().find(|code| code.name == name)
}

/// Every code of the product, in the order of the rooms.
pub(crate) fn all() -> Vec<Code> {
    [
        swarmer_model::codes::ALL,
        swarmer_gossip::codes::ALL,
        swarmer_raft::codes::ALL,
        swarmer_raft::wal::codes::ALL,
        swarmer_mesh::codes::ALL,
        swarmer_mesh::call::codes::ALL,
        swarmer_mesh::routing::codes::ALL,
        swarmer_mesh::founding::codes::ALL,
        swarmer_runtime::codes::ALL,
        swarmer_scheduler::codes::ALL,
        OWN,
    ]
    .concat()
}
