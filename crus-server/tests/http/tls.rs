//! TLS: what is spoken, whose certificates, and what happens when their files change.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use crus_server::http::{HttpLimits, Tls, TlsFiles};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version};

use super::{GET_AND_CLOSE, HANGS, Served, limits, rest};

/// Made for `localhost`, each by itself; `client` by `clients-ca`. Good for a hundred years, and for nothing else.
fn at(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/certificates")).join(name)
}

fn first() -> TlsFiles {
    TlsFiles { cert: Some(at("first.pem")), key: Some(at("first.key")), client_ca: None }
}

/// Serves `hello` with the certificate in these files.
fn serve(files: &TlsFiles, limits: HttpLimits) -> Served {
    let tls = Tls::start(files).unwrap();
    assert!(tls.is_some());
    Served::over(tls, Router::new().route("/", get(async || "hello")), limits)
}

/// What a client trusts and shows.
struct Client {
    versions: Vec<&'static SupportedProtocolVersion>,
    trusts: &'static str,
    shows: bool,
}

/// One that trusts the certificate of this name.
fn trusting(trusts: &'static str) -> Client {
    Client { versions: vec![&version::TLS13, &version::TLS12], trusts, shows: false }
}

impl Client {
    async fn connect(&self, to: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.over(TcpStream::connect(to).await?).await
    }

    async fn over(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(at(self.trusts)).unwrap()).unwrap();
        let builder =
            ClientConfig::builder_with_protocol_versions(&self.versions).with_root_certificates(roots);
        let mut config = match self.shows {
            false => builder.with_no_client_auth(),
            true => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(at("client.pem")).unwrap()],
                    PrivateKeyDer::from_pem_file(at("client.key")).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    /// Whether it is answered.
    async fn is_greeted(&self, served: &Served) -> bool {
        let asked = async {
            let mut stream = self.connect(served.address).await?;
            stream.write_all(GET_AND_CLOSE).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        timeout(HANGS, asked).await.unwrap().is_ok_and(|answer| answer.ends_with("hello"))
    }

    async fn until_greeted(&self, served: &Served) {
        let greeted = async {
            while !self.is_greeted(served).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(HANGS, greeted).await.expect("the certificate is in use");
    }
}

#[tokio::test]
async fn tls_of_1_2_and_1_3_is_spoken_and_http_1_1_over_it() {
    let served = serve(&first(), limits());
    for (version, is) in
        [(&version::TLS12, ProtocolVersion::TLSv1_2), (&version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let client = Client { versions: vec![version], ..trusting("first.pem") };
        assert!(client.is_greeted(&served).await);
        let stream = client.connect(served.address).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(is));
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
    assert!(!trusting("second.pem").is_greeted(&served).await);
}

#[tokio::test]
async fn who_speaks_in_the_clear_is_told_to_speak_tls() {
    let served = serve(&first(), limits());
    let answer = rest(served.connect(GET_AND_CLOSE).await).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("Use https:// instead of http://"), "{answer}");
}

#[tokio::test]
async fn garbage_and_half_done_handshakes_are_not_waited_for() {
    let served = serve(&first(), HttpLimits { head_timeout: Duration::from_millis(200), ..limits() });
    for beginning in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00garbage"] {
        let mut stream = served.connect(beginning).await;
        let mut said = Vec::new();
        // An alert at most; that the connection is reset is as well.
        timeout(HANGS, stream.read_to_end(&mut said)).await.expect("it is closed").ok();
    }
    // Likewise one who shakes hands and then says nothing.
    let mut silent = trusting("first.pem").connect(served.address).await.unwrap();
    timeout(HANGS, silent.read_u8()).await.expect("it is closed").unwrap_err();
    assert!(trusting("first.pem").is_greeted(&served).await);
}

/// Without the word of TLS for that, it looks to a client like a connection that somebody cut in the midst of its request.
#[tokio::test]
async fn an_idle_connection_is_closed_by_the_rules_of_tls() {
    let served = serve(&first(), HttpLimits { idle_timeout: Duration::from_millis(200), ..limits() });
    for version in [&version::TLS13, &version::TLS12] {
        let client = Client { versions: vec![version], ..trusting("first.pem") };
        let mut stream = client.connect(served.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = timeout(HANGS, stream.read_to_string(&mut answer)).await.expect("it is closed");
        assert!(read.is_ok() && answer.ends_with("hello"), "{read:?} {answer}");
    }
}

/// Each handshake costs a signature: they are counted as the requests are, and the first request then is not.
#[tokio::test]
async fn one_client_has_no_more_handshakes_than_requests() {
    let limits = HttpLimits {
        requests_per_second_per_client: Some(1),
        head_timeout: Duration::from_millis(900),
        ..limits()
    };
    let served = serve(&first(), limits);
    let client = trusting("first.pem");
    let greeted = futures_util::future::join_all((0..30).map(|_| client.is_greeted(&served))).await;
    let count = greeted.into_iter().filter(|greeted| *greeted).count();
    // Two at once, and then one in a second.
    assert!((2..10).contains(&count), "{count} of 30 were served");
    let one = TcpSocket::new_v4().unwrap();
    one.bind(SocketAddr::from(([127, 0, 7, 1], 0))).unwrap();
    let other = one.connect(served.address).await.unwrap();
    assert!(client.over(other).await.is_ok(), "another client is served");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_handshakes() {
    let mut served = serve(&first(), limits());
    let half = served.connect(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
    let idle = trusting("first.pem").connect(served.address).await.unwrap();
    served.stop();
    // Nothing here ever times out by itself.
    timeout(HANGS, served.ended).await.unwrap().unwrap();
    drop((half, idle));
}

#[tokio::test]
async fn clients_must_show_a_certificate_where_authorities_are_given() {
    let files = TlsFiles { client_ca: Some(at("clients-ca.pem")), ..first() };
    let served = serve(&files, limits());
    assert!(!trusting("first.pem").is_greeted(&served).await);
    assert!(Client { shows: true, ..trusting("first.pem") }.is_greeted(&served).await);
}

/// A folder with the pair of this name.
fn put_pair(folder: &Path, name: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::copy(at(&format!("{name}.pem")), folder.join("tls.crt")).unwrap();
    fs::copy(at(&format!("{name}.key")), folder.join("tls.key")).unwrap();
}

fn pair_in(folder: &Path) -> TlsFiles {
    TlsFiles { cert: Some(folder.join("tls.crt")), key: Some(folder.join("tls.key")), client_ca: None }
}

#[tokio::test]
async fn files_that_change_are_used_from_then_on_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    put_pair(folder.path(), "first");
    let served = serve(&pair_in(folder.path()), limits());
    let mut open = trusting("first.pem").connect(served.address).await.unwrap();
    // A key alone: no pair with the old certificate.
    fs::copy(at("second.key"), folder.path().join("tls.key")).unwrap();
    // Several looks at it; the clock stands still while one is under way.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    tokio::time::resume();
    assert!(trusting("first.pem").is_greeted(&served).await, "the old pair is used on");
    fs::copy(at("second.pem"), folder.path().join("tls.crt")).unwrap();
    trusting("second.pem").until_greeted(&served).await;
    assert!(!trusting("first.pem").is_greeted(&served).await);
    // What began with the old one goes on with it.
    open.write_all(GET_AND_CLOSE).await.unwrap();
    let mut answer = String::new();
    timeout(HANGS, open.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

/// As Kubernetes does with secrets that are mounted: `tls.crt` is a link to `..data/tls.crt`, and `..data` one to a folder
/// which is replaced by renaming.
#[tokio::test]
async fn links_that_change_are_followed() {
    let mount = tempfile::tempdir().unwrap();
    let path = mount.path();
    put_pair(&path.join("..2026_1"), "first");
    symlink("..2026_1", path.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), path.join(name)).unwrap();
    }
    let served = serve(&pair_in(path), limits());
    assert!(trusting("first.pem").is_greeted(&served).await);
    put_pair(&path.join("..2026_2"), "second");
    symlink("..2026_2", path.join("..data_tmp")).unwrap();
    fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    fs::remove_dir_all(path.join("..2026_1")).unwrap();
    trusting("second.pem").until_greeted(&served).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_at_the_start() {
    let told = |files: &TlsFiles| {
        let error = Tls::start(files).expect_err("they cannot be used");
        format!("{:#}", anyhow::Error::from(error))
    };
    let one = TlsFiles { key: None, ..first() };
    assert_eq!(
        told(&one),
        "tls_cert_file is set, and tls_key_file is not: TLS needs both a certificate and its key"
    );
    let one = TlsFiles { cert: None, ..first() };
    assert!(told(&one).starts_with("tls_key_file is set, and tls_cert_file is not"));
    let one = TlsFiles { client_ca: Some(at("clients-ca.pem")), ..TlsFiles::default() };
    assert!(told(&one).starts_with("tls_client_ca_file is set, and tls_cert_file is not"));
    let strange = TlsFiles { key: Some(at("second.key")), ..first() };
    assert!(told(&strange).contains("they must be a pair"), "{}", told(&strange));
    let swapped = TlsFiles { cert: first().key, key: first().cert, client_ca: None };
    assert!(told(&swapped).contains("failed to find a certificate, as PEM, in "), "{}", told(&swapped));
    let nowhere = TlsFiles { cert: Some("/nowhere/tls.crt".into()), ..first() };
    assert!(told(&nowhere).starts_with("failed to read /nowhere/tls.crt (set by tls_cert_file): "));
    assert!(Tls::start(&TlsFiles::default()).unwrap().is_none());
}
