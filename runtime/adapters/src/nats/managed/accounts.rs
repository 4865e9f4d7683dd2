//! The accounts of a NATS server that this system runs on, and what each user may say there, as the text of a server configuration.
//!
//! CORE holds the journals, the seats, the snapshots and what nodes and Managers say to each other. EDGE holds what clients read
//! (events, messages, output) and where nodes leave it. Over the border go requests to the service alone, and the server itself
//! writes who asks (`share`). Streams that clients read are not in CORE, because whoever may make a consumer chooses the subject that
//! it delivers to: in one account a client writes into the journal that way (measured on 2.15.1). Never holds a secret itself: a
//! password is what the caller gives, or a reference to the server's environment.

use std::fmt::Write as _;

use amphi_protocol::access::{ADMIN_VERBS, APPROVER_VERBS, Access, VIEWER_VERBS};
use amphi_protocol::ids::NodeId;
use amphi_protocol::subjects::{
    API_GROUP, EVENTS_STREAM, EVENTS_SUBJECTS, INTERNAL, INTERNAL_INBOX, JOURNALS, MESSAGES_STREAM, MESSAGES_SUBJECTS, OBJECTS_BUCKET,
    OUTPUT_STREAM, OUTPUT_SUBJECTS, PINS_BUCKET, SEATS_SUBJECTS, SHARD_COUNT, spoken_by,
};

/// Account of Managers and nodes.
pub const CORE_ACCOUNT: &str = "CORE";
/// Account of clients.
pub const EDGE_ACCOUNT: &str = "EDGE";
/// May do everything in CORE: `up`, and nodes with a Manager's seat whose machine has no user of its own.
pub const CORE_USER: &str = "amphi-core";
/// The same nodes and `up` on the clients' side.
pub const EDGE_USER: &str = "amphi-edge";

/// What changes a stream as a whole, or reads it as one.
const STREAM_VERBS: [&str; 6] = ["CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "MSG.DELETE"];
/// What clients may read with consumers of their own.
const READABLE: [&str; 3] = [EVENTS_STREAM, MESSAGES_STREAM, OUTPUT_STREAM];

/// What nodes and Managers say to each other, for admins to listen to; answers are for nobody else.
const OVERHEARD: [&str; 3] = ["amphi.int.from.>", "amphi.int.node.>", "amphi.int.role.>"];

/// A user that exists beside [`CORE_USER`] and [`EDGE_USER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Its password, or `$NAME` for one from the server's environment.
    pub password: String,
}

/// A node's user. On the clients' side it is called `<node>.edge`, with the same password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLogin {
    /// The node, whose id is its user.
    pub node: NodeId,
    /// Its password.
    pub password: String,
    /// Whether a Manager may run there: it may write to the journals and command nodes.
    pub seat: bool,
}

/// The user of a node on the clients' side.
pub fn edge_user(node: &NodeId) -> String {
    format!("{node}.edge")
}

/// Everybody who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// Of [`CORE_USER`].
    pub core_password: String,
    /// Of [`EDGE_USER`].
    pub edge_password: String,
    /// Clients by their access; the first with [`Access::Admin`] is the one whose URL is given away.
    pub clients: Vec<(Access, Login)>,
    /// Nodes.
    pub nodes: Vec<NodeLogin>,
}

/// What a user may publish and subscribe. Empty lists allow everything that is not denied.
#[derive(Default)]
struct Permissions {
    publish: Vec<String>,
    publish_deny: Vec<String>,
    subscribe: Vec<String>,
    subscribe_deny: Vec<String>,
    answers: bool,
}

impl Accounts {
    /// Those of `deploy/nats/accounts.conf`, whose passwords come from the server's environment.
    pub fn template() -> Self {
        let clients = Access::ALL.into_iter().rev().map(|access| {
            let password = format!("$AMPHI_{}_PASSWORD", access.as_str().to_uppercase());
            (access, Login { user: access.as_str().to_owned(), password })
        });
        let nodes = [1, 2].map(|number| NodeLogin {
            node: NodeId::parse(&format!("worker-node-{number}")).expect("a literal id"),
            password: format!("$AMPHI_WORKER_{number}_PASSWORD"),
            seat: false,
        });
        Self {
            core_password: "$AMPHI_CORE_PASSWORD".to_owned(),
            edge_password: "$AMPHI_EDGE_PASSWORD".to_owned(),
            clients: clients.collect(),
            nodes: nodes.to_vec(),
        }
    }

    /// The `accounts` block.
    pub fn to_config(&self) -> String {
        let mut text = String::from("accounts {\n");
        writeln!(text, "  {CORE_ACCOUNT} {{\n    jetstream: enabled\n    users: [").ok();
        user(&mut text, CORE_USER, &self.core_password, &Permissions::default());
        for node in &self.nodes {
            user(&mut text, node.node.as_str(), &node.password, &node_in_core(&node.node, node.seat));
        }
        writeln!(
            text,
            "    ]\n    exports: [\n      {{ service: \"{API_GROUP}.>\", accounts: [{EDGE_ACCOUNT}] }}\n      \
             {{ service: \"$SRV.>\", response_type: stream, accounts: [{EDGE_ACCOUNT}] }}\n{}    ]\n  }}",
            OVERHEARD.map(|subject| format!("      {{ stream: \"{subject}\", accounts: [{EDGE_ACCOUNT}] }}\n")).concat()
        )
        .ok();
        writeln!(text, "  {EDGE_ACCOUNT} {{\n    jetstream: enabled\n    users: [").ok();
        user(&mut text, EDGE_USER, &self.edge_password, &manager_in_edge());
        for node in &self.nodes {
            let permissions = if node.seat { manager_in_edge() } else { node_in_edge(&node.node) };
            user(&mut text, &edge_user(&node.node), &node.password, &permissions);
        }
        for (access, login) in &self.clients {
            user(&mut text, &login.user, &login.password, &self.client(*access, &login.user));
        }
        writeln!(
            text,
            "    ]\n    imports: [\n      {{ service: {{ account: {CORE_ACCOUNT}, subject: \"{API_GROUP}.>\" }}, share: true }}\n      \
             {{ service: {{ account: {CORE_ACCOUNT}, subject: \"$SRV.>\" }} }}\n{}    ]\n  }}\n}}",
            OVERHEARD.map(|subject| format!("      {{ stream: {{ account: {CORE_ACCOUNT}, subject: \"{subject}\" }} }}\n")).concat()
        )
        .ok();
        text
    }

    /// A client. Only a viewer has a list of what it may say: the others may also send signals, on subjects of their own choice.
    fn client(&self, access: Access, name: &str) -> Permissions {
        let api = |verb: &&str| format!("{API_GROUP}.{verb}");
        let others = self.clients.iter().filter(|(_, login)| login.user != name);
        let mut subscribe_deny: Vec<String> = others.map(|(_, login)| format!("{}.>", private_inbox(&login.user))).collect();
        if access != Access::Admin {
            subscribe_deny.push(INTERNAL.to_owned());
        }
        if access == Access::Viewer {
            let reads = ["*.list", "*.get"].iter().chain(&VIEWER_VERBS).map(api);
            let streams = READABLE.iter().flat_map(|stream| reading(stream));
            let rest = ["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$SRV.>", "$SYS.REQ.USER.INFO"].map(str::to_owned);
            let publish = reads.chain(streams).chain(rest).collect();
            return Permissions { publish, publish_deny: self.others_consumers(), subscribe_deny, ..Permissions::default() };
        }
        let forbidden: Vec<&str> = match access {
            Access::Viewer | Access::Admin => Vec::new(),
            Access::Approver => ADMIN_VERBS.to_vec(),
            Access::Submitter => [ADMIN_VERBS.as_slice(), APPROVER_VERBS.as_slice()].concat(),
        };
        let mut publish_deny: Vec<String> = forbidden.iter().map(api).collect();
        // A new stream could take the answers of others, or requests before the service has them.
        publish_deny.extend(STREAM_VERBS.map(|verb| format!("$JS.API.STREAM.{verb}.>")));
        publish_deny.extend(["$JS.API.STREAM.SNAPSHOT.>", "$JS.API.CONSUMER.PAUSE.>", "$KV.>", "$O.>"].map(str::to_owned));
        publish_deny.extend([INTERNAL, EVENTS_SUBJECTS, OUTPUT_SUBJECTS, JOURNALS, SEATS_SUBJECTS].map(str::to_owned));
        publish_deny.extend(bucket_streams().iter().flat_map(|stream| reading(stream)));
        publish_deny.extend(self.others_consumers());
        Permissions { publish_deny, subscribe_deny, ..Permissions::default() }
    }

    /// The consumers of nodes are theirs: nobody else takes their messages, acknowledges them or makes them anew.
    fn others_consumers(&self) -> Vec<String> {
        self.nodes.iter().flat_map(|node| consumer_of(&node.node)).filter(|subject| !subject.contains(".INFO.")).collect()
    }
}

/// Where a client may wait for answers that no other user may overhear.
pub fn private_inbox(user: &str) -> String {
    format!("_INBOX_{}", user.replace(['.', '*', '>', ' '], "_"))
}

/// What reading a stream takes.
fn reading(stream: &str) -> Vec<String> {
    [
        "$JS.API.STREAM.INFO.%",
        "$JS.API.STREAM.MSG.GET.%",
        "$JS.API.DIRECT.GET.%",
        "$JS.API.DIRECT.GET.%.>",
        "$JS.API.CONSUMER.CREATE.%",
        "$JS.API.CONSUMER.CREATE.%.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.%.>",
        "$JS.API.CONSUMER.INFO.%.>",
        "$JS.API.CONSUMER.NAMES.%",
        "$JS.API.CONSUMER.LIST.%",
        "$JS.API.CONSUMER.DELETE.%.>",
        "$JS.API.CONSUMER.MSG.NEXT.%.>",
        "$JS.ACK.%.>",
        "$JS.FC.%.>",
    ]
    .map(|subject| subject.replace('%', stream))
    .to_vec()
}

fn bucket_streams() -> [String; 2] {
    [format!("OBJ_{OBJECTS_BUCKET}"), format!("KV_{PINS_BUCKET}")]
}

/// Everything about the consumer of a node's messages.
fn consumer_of(node: &NodeId) -> Vec<String> {
    [
        "$JS.API.CONSUMER.CREATE.%",
        "$JS.API.CONSUMER.CREATE.%.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.%",
        "$JS.API.CONSUMER.INFO.%",
        "$JS.API.CONSUMER.DELETE.%",
        "$JS.API.CONSUMER.MSG.NEXT.%",
        "$JS.ACK.%.>",
    ]
    .map(|subject| subject.replace('%', &format!("{MESSAGES_STREAM}.node-{node}")))
    .to_vec()
}

/// A node speaks under its own name, and hears what is for it. With a Manager's seat it also writes journals, commands nodes, hears all
/// of them and serves requests.
fn node_in_core(node: &NodeId, seat: bool) -> Permissions {
    let inbox = format!("{INTERNAL_INBOX}.{node}.>");
    let own = format!("amphi.int.node.{node}.>");
    let ask = "amphi.int.role.>".to_owned();
    if seat {
        // Answers to nodes and to clients (`_R_`) are a Manager's to give; what others say (`from`) is not.
        let said = ["node", "inbox", "role", "shard", "gateway", "manager", "up"].map(|word| format!("amphi.int.{word}.>"));
        let stores = [JOURNALS, SEATS_SUBJECTS, "$JS.>", "$KV.>", "$O.>", "$SRV.>", "_R_.>", "_INBOX.>", "$SYS.REQ.USER.INFO"];
        let publish = [spoken_by(node)].into_iter().chain(said).chain(stores.map(str::to_owned)).collect();
        let heard = ["from", "role", "shard", "gateway", "manager"].map(|word| format!("amphi.int.{word}.>"));
        let served = [format!("{API_GROUP}.>"), "$SRV.>".to_owned(), "_INBOX.>".to_owned(), inbox, own];
        return Permissions { publish, subscribe: heard.into_iter().chain(served).collect(), ..Permissions::default() };
    }
    // Its `up` says its death with the same user. It asks JetStream for nothing here, not even for news: the answer to a request goes
    // where the request wants it, and that may be a journal.
    let publish = vec![spoken_by(node), inbox.clone(), ask.clone(), SHARD_COUNT.to_owned()];
    Permissions { publish, subscribe: vec![inbox, own, ask], answers: true, ..Permissions::default() }
}

/// A node without a seat on the clients' side: it leaves messages, output and artifacts there, and takes its own messages.
fn node_in_edge(node: &NodeId) -> Permissions {
    let mut publish = vec![MESSAGES_SUBJECTS.to_owned(), OUTPUT_SUBJECTS.to_owned(), "$JS.API.INFO".to_owned()];
    let inbox = format!("{INTERNAL_INBOX}.{node}.>");
    publish.extend([format!("$O.{OBJECTS_BUCKET}.>"), format!("$KV.{PINS_BUCKET}.>"), inbox.clone(), "$SYS.REQ.USER.INFO".to_owned()]);
    for stream in [MESSAGES_STREAM, OUTPUT_STREAM].map(str::to_owned).iter().chain(&bucket_streams()) {
        publish.extend(["INFO", "MSG.GET"].map(|verb| format!("$JS.API.STREAM.{verb}.{stream}")));
        publish.extend([format!("$JS.API.DIRECT.GET.{stream}"), format!("$JS.API.DIRECT.GET.{stream}.>")]);
    }
    // To read an object.
    publish.extend(reading(&bucket_streams()[0]));
    publish.extend(consumer_of(node));
    Permissions { publish, subscribe: vec![inbox], answers: true, ..Permissions::default() }
}

/// A Manager on the clients' side: it publishes events, and hears signals on any subject. It asks the service for nothing, so that no
/// request counts as its.
fn manager_in_edge() -> Permissions {
    Permissions { publish_deny: vec![format!("{API_GROUP}.>"), INTERNAL_REQUESTS.to_owned()], ..Permissions::default() }
}

/// Nobody serves these on the clients' side.
const INTERNAL_REQUESTS: &str = "amphi.int.from.>";

fn user(text: &mut String, name: &str, password: &str, permissions: &Permissions) {
    // A reference to the environment stands without quotes.
    let password = if password.starts_with('$') { password.to_owned() } else { format!("\"{password}\"") };
    let Permissions { publish, publish_deny, subscribe, subscribe_deny, answers } = permissions;
    let mut parts = Vec::new();
    for (what, allow, deny) in [("publish", publish, publish_deny), ("subscribe", subscribe, subscribe_deny)] {
        let lists = [("allow", allow), ("deny", deny)].into_iter().filter(|(_, list)| !list.is_empty());
        let lists: Vec<String> = lists.map(|(name, list)| format!("          {name}: [{}]\n", quoted(list))).collect();
        if !lists.is_empty() {
            parts.push(format!("        {what}: {{\n{}        }}\n", lists.concat()));
        }
    }
    if *answers {
        parts.push("        allow_responses: { max: 4, expires: \"1m\" }\n".to_owned());
    }
    let permissions = if parts.is_empty() { String::new() } else { format!(", permissions: {{\n{}      }}", parts.concat()) };
    writeln!(text, "      {{ user: \"{name}\", password: {password}{permissions} }}").ok();
}

fn quoted(list: &[String]) -> String {
    list.iter().map(|subject| format!("\"{subject}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_for_foreign_servers_is_what_the_managed_server_has() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/nats/accounts.conf");
        let head =
            "# Who may log in, and say and hear what. Written by runtime/adapters/src/nats/managed/accounts.rs; README.md explains it.\n";
        let wanted = format!("{head}{}", Accounts::template().to_config());
        if std::fs::read_to_string(path).unwrap_or_default() != wanted {
            let made = std::env::temp_dir().join("accounts.conf");
            std::fs::write(&made, wanted).unwrap();
            panic!("deploy/nats/accounts.conf is not what the code makes: copy {} there", made.display());
        }
    }
}
