//! Certificates: which peers a node accepts, and what the rejected ones read.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use super::sockets::{connect, serve, unreachable};
use super::support::*;
use crate::transport::outcome::Outcome;
use crate::transport::request::Response;
use crate::transport::tls::{NodeTls, NodeTlsError, TlsConfig};

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// The certificate of the authority.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        self.issue_with(CertificateParams::new([name.to_owned()]).expect("a name"))
    }

    /// A certificate whose time has passed, and its key.
    pub(crate) fn issue_expired(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        self.issue_with(params)
    }

    fn issue_with(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn node(&self, name: &str) -> NodeTls {
        let (certificate, key) = self.issue(name);
        NodeTls::from_pem(self.0.pem(), certificate, key)
    }

    pub(in crate::transport) fn config(&self, cluster: &str) -> TlsConfig {
        self.node(&format!("{cluster}.gen-registry")).read(cluster).expect("a certificate for the cluster")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_cluster_reach_each_other() {
    let authority = Authority::new();
    let node = serve(identity(2), Some(authority.config("chat"))).await;
    let peer = connect(node.server.address(), Some(authority.config("chat")));
    for size in [8, 1_000_000] {
        let outcome = send(&peer, message("echo", 1, size), SECOND * 30).await;
        assert!(matches!(&outcome, Outcome::Answered(Response::Replied(body)) if body.len() == size), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_cluster_is_rejected() {
    let authority = Authority::new();
    // The server is of the other cluster.
    let other = serve(identity(2), Some(authority.config("game"))).await;
    let reason = unreachable(&connect(other.server.address(), Some(authority.config("chat")))).await;
    assert!(reason.contains("certificate not valid for name \"chat.gen-registry\""), "{reason}");
    // The sender is: it has a certificate for `game`, and believes to be right at `chat`.
    let node = serve(identity(2), Some(authority.config("chat"))).await;
    let (chat, game) = (authority.config("chat"), authority.config("game"));
    let stranger = TlsConfig { client: game.client, ..chat };
    let reason = unreachable(&connect(node.server.address(), Some(stranger))).await;
    assert!(reason.contains("the certificate of this node is not for `chat.gen-registry`"), "{reason}");
    assert_eq!((node.world.order(), other.world.order()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_authority_is_rejected() {
    let (authority, other) = (Authority::new(), Authority::new());
    let node = serve(identity(2), Some(authority.config("chat"))).await;
    let address = node.server.address();
    // The sender does not trust the receiver.
    let reason = unreachable(&connect(address, Some(other.config("chat")))).await;
    assert!(reason.contains("invalid peer certificate"), "{reason}");
    // The sender trusts it, and is not trusted.
    let (certificate, key) = other.issue("chat.gen-registry");
    let half = NodeTls::from_pem(authority.0.pem(), certificate, key).read("chat").expect("its own name is right");
    let reason = unreachable(&connect(address, Some(half))).await;
    assert!(reason.ends_with("it may not accept the certificate of this node"), "{reason}");
    assert_eq!(node.world.order(), [0_u64; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_and_secured_nodes_do_not_mix() {
    let authority = Authority::new();
    let secured = serve(identity(2), Some(authority.config("chat"))).await;
    let reason = unreachable(&connect(secured.server.address(), None)).await;
    assert!(reason.ends_with("it may require TLS, and this node has none"), "{reason}");
    let plain = serve(identity(2), None).await;
    let reason = unreachable(&connect(plain.server.address(), Some(authority.config("chat")))).await;
    assert!(reason.ends_with("it may have no TLS, and this node requires it"), "{reason}");
    assert_eq!((secured.world.order(), plain.world.order()), (vec![], vec![]));
}

#[test]
fn unusable_certificates_are_errors() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("chat.gen-registry");
    let ca = authority.0.pem();
    let read = |ca: &str, certificate: &str, key: &str, cluster| NodeTls::from_pem(ca, certificate, key).read(cluster);
    read(&ca, &certificate, &key, "chat").expect("all is right");
    let error = read(&ca, &certificate, &key, "game").expect_err("another name");
    assert!(matches!(error, NodeTlsError::NotForCluster { .. }), "{error:?}");
    assert!(error.to_string().contains("is not for `game.gen-registry`"), "{error}");
    let error = read(&ca, &certificate, &key, "a b").expect_err("no host name");
    assert_eq!(error.to_string(), "`a b.gen-registry` is no host name, and certificates are issued for host names");
    let error = read("", &certificate, &key, "chat").expect_err("no authority");
    assert_eq!(error.to_string(), "the PEM of the authorities has no certificate");
    let error = read(&ca, "", &key, "chat").expect_err("no certificate");
    assert_eq!(error.to_string(), "the PEM of the certificate has no certificate");
    let error = read(&ca, &certificate, "", "chat").expect_err("no key");
    assert!(matches!(error, NodeTlsError::Pem { file: "key", .. }), "{error:?}");
    let (_, other) = authority.issue("chat.gen-registry");
    let error = read(&ca, &certificate, &other, "chat").expect_err("the key of another certificate");
    assert!(matches!(error, NodeTlsError::Unusable(_)), "{error:?}");
    let broken = ca.replace("MII", "M!!");
    assert!(matches!(read(&broken, &certificate, &key, "chat"), Err(NodeTlsError::Pem { .. })));
    assert_eq!(format!("{:?}", authority.node("x")), "NodeTls(..)");
}

/// Connections that say nothing are dropped after five seconds. A node does not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_no_node_out() {
    let authority = Authority::new();
    let node = serve(identity(2), Some(authority.config("chat"))).await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        let connecting = tokio::net::TcpStream::connect(node.server.address());
        silent.push(within(connecting, "a connection").await.expect("it is accepted"));
    }
    let peer = connect(node.server.address(), Some(authority.config("chat")));
    let outcome = send(&peer, message("echo", 1, 8), SECOND * 4).await;
    assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
    drop(silent);
}
