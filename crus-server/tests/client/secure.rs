//! A service behind TLS, with a certificate of an authority of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Ended, crus, run};

/// Made for `localhost`, and by itself; good for a hundred years, and for nothing else.
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/tls/cert.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/tls/key.pem");

/// Answers every request with an empty list, as long as the runtime lives.
fn serve() -> (Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_file(KEY).unwrap();
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not trust us goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]";
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (runtime, address)
}

fn list(url: &str, ca_file: Option<&Path>) -> Ended {
    let mut command = crus(&["session", "list", "--url", url]);
    if let Some(path) = ca_file {
        command.arg("--ca-file").arg(path);
    }
    run(command)
}

#[test]
fn a_certificate_of_an_unknown_authority_is_accepted_once_that_is_given() {
    let (_runtime, address) = serve();
    let url = format!("https://localhost:{}", address.port());
    let strange = list(&url, None);
    assert_eq!((strange.code, strange.out.as_str()), (Some(1), ""));
    assert!(strange.err.contains("--ca-file"), "{}", strange.err);
    let known = list(&url, Some(Path::new(CERTIFICATE)));
    assert_eq!(known, Ended { code: Some(0), out: "[]\n".into(), err: String::new() });
    let other_name = list(&format!("https://{address}"), Some(Path::new(CERTIFICATE)));
    assert_eq!(other_name.code, Some(1));
    assert!(other_name.err.contains("is for another name"), "{}", other_name.err);
}

#[test]
fn a_file_without_authorities_is_said() {
    for (path, says) in [("/nowhere/ca.pem", "No such file"), (KEY, "there is no PEM certificate in it")] {
        let ended = list("https://localhost:1", Some(Path::new(path)));
        assert_eq!(ended.code, Some(2));
        assert!(ended.err.contains(says) && ended.err.contains(path), "{}", ended.err);
    }
}
