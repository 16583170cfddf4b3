//! The clients of the peers, made of the configuration. None of them connects before it is asked something.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crus_clients::bos::BosClient;
use crus_clients::bos::v1::BosV1Client;
use crus_clients::hsm::HsmClient;
use crus_clients::http::{
    BaseUrl, ClientAuth, Credentials, IdentityFiles, IssuerConfig, PeerConfig, TlsFiles, TokenIssuer,
};
use crus_clients::slurm::{Slurm, SlurmConfig};
use crus_core::ports::{Bos, Hsm, Wlm};
use tracing::warn;

use crate::config::Misconfigured;
use crate::settings::{self, Config};

/// How we prove to HSM and BOS who we are, and whom we trust.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessOptions {
    /// The file with the bearer token for both; its content is a secret.
    pub token_file: Option<PathBuf>,
    /// The file with the certificates of the authorities to trust, instead of the system's own.
    pub ca_file: Option<PathBuf>,
    /// What is different for HSM.
    pub hsm: OwnFiles,
    /// What is different for BOS.
    pub bos: OwnFiles,
    /// Where tokens are fetched instead.
    pub oauth: OauthOptions,
}

/// The files that hold for one peer alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnFiles {
    /// The file with the bearer token for it; its content is a secret.
    pub token_file: Option<PathBuf>,
    /// The file with the certificates of the authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// The file with our own certificate.
    pub cert_file: Option<PathBuf>,
    /// The file with its key; its content is a secret.
    pub key_file: Option<PathBuf>,
}

/// OAuth 2.0 client credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OauthOptions {
    /// The token endpoint. None: no token is fetched.
    pub token_url: Option<String>,
    /// Who we are there.
    pub client_id: Option<String>,
    /// The file with the client's secret; its content is a secret.
    pub client_secret_file: Option<PathBuf>,
    /// How id and secret are sent.
    pub client_auth: ClientAuth,
    /// What the token shall be good for, as the issuer has it.
    pub scope: Option<String>,
    /// The file with the certificates of the authorities to trust for it.
    pub ca_file: Option<PathBuf>,
    /// The file with our own certificate.
    pub cert_file: Option<PathBuf>,
    /// The file with its key; its content is a secret.
    pub key_file: Option<PathBuf>,
}

/// A version of BOS's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BosApi {
    /// Of older systems: it takes no names of ours for its sessions.
    V1,
    /// That of today.
    #[default]
    V2,
}

impl BosApi {
    /// As the option has it, and as URLs end.
    pub fn word(self) -> &'static str {
        match self {
            BosApi::V1 => "v1",
            BosApi::V2 => "v2",
        }
    }
}

impl FromStr for BosApi {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [BosApi::V1, BosApi::V2].into_iter().find(|api| api.word() == text).ok_or(())
    }
}

/// Where BOS is: one that is not said to be elsewhere is where its version is.
fn bos_url(config: &Config) -> anyhow::Result<String> {
    let (api, other) = match config.bos_api {
        BosApi::V1 => (BosApi::V1, BosApi::V2),
        BosApi::V2 => (BosApi::V2, BosApi::V1),
    };
    let url = config.bos_url.trim_end_matches('/');
    let Some(base) = url.strip_suffix(other.word()).filter(|base| base.ends_with('/')) else {
        return Ok(config.bos_url.clone());
    };
    if config.bos_url == Config::default().bos_url {
        return Ok(format!("{base}{}", api.word()));
    }
    Err(Misconfigured::error(format!(
        "bos_url ends in /{}, and bos_api is {}: have bos_url end in /{}, or set bos_api to {}",
        other.word(),
        api.word(),
        api.word(),
        other.word()
    )))
}

/// Who the sessions work with.
pub struct Peers {
    /// The Hardware State Manager.
    pub hsm: Arc<dyn Hsm>,
    /// The Boot Orchestration Service.
    pub bos: Arc<dyn Bos>,
    /// The workload manager.
    pub wlm: Arc<dyn Wlm>,
}

impl Peers {
    /// Makes the clients.
    ///
    /// # Errors
    /// When options do not go together, certificates cannot be read, or a URL is of no use. A token or a client's secret
    /// that is not there yet is no error: it is read when it is needed, and again when it changes.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let access = Access::new(config)?;
        let peer = |name: &str, own: &OwnFiles, url: &str, max_calls: usize| -> anyhow::Result<PeerConfig> {
            let base: BaseUrl = url.parse().with_context(|| format!("{name}_url is of no use"))?;
            let credentials = access.credentials(own);
            if !matches!(credentials, Credentials::None) && !base.is_https() && !base.is_loopback() {
                warn!(
                    url = %base,
                    "tokens go to {name} in the clear, and whoever is on the way can use them: give it an https:// URL \
                     ({name}_url)"
                );
            }
            let mut peer = PeerConfig::new(base);
            peer.total_timeout = Duration::from_millis(config.call_timeout_ms);
            peer.connect_timeout = peer.connect_timeout.min(peer.total_timeout);
            peer.max_calls = max_calls;
            peer.credentials = credentials;
            peer.tls = access.tls(name, own)?;
            Ok(peer)
        };
        let options = &config.access;
        let hsm = HsmClient::new(peer("hsm", &options.hsm, &config.hsm_url, config.max_calls_hsm)?).context(
            "failed to set up the client of HSM (hsm_ca_file or ca_file, hsm_cert_file, hsm_key_file)",
        )?;
        let bos = peer("bos", &options.bos, &bos_url(config)?, config.max_calls_bos)?;
        let bos: Result<Arc<dyn Bos>, _> = match config.bos_api {
            BosApi::V1 => BosV1Client::new(bos).map(|client| Arc::new(client) as Arc<dyn Bos>),
            BosApi::V2 => BosClient::new(bos).map(|client| Arc::new(client) as Arc<dyn Bos>),
        };
        let bos = bos.context(
            "failed to set up the client of BOS (bos_ca_file or ca_file, bos_cert_file, bos_key_file)",
        )?;
        let slurm = Slurm::new(SlurmConfig {
            scontrol: config.scontrol.clone(),
            squeue: config.squeue.clone(),
            scancel: config.scancel.clone(),
            timeout: Duration::from_millis(config.call_timeout_ms),
            max_calls: config.max_calls_slurm,
            // Our own options are nobody else's business: some hold secrets.
            env_withheld: settings::all().map(|setting| setting.variable().into()).collect(),
            ..SlurmConfig::default()
        });
        Ok(Peers { hsm: Arc::new(hsm), bos, wlm: Arc::new(slurm) })
    }
}

/// How long the issuer of tokens may take, unless calls may not take that long.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(15);

/// What both peers share of how they are accessed.
struct Access<'a> {
    options: &'a AccessOptions,
    common: Credentials,
}

impl<'a> Access<'a> {
    fn new(config: &'a Config) -> anyhow::Result<Self> {
        let options = &config.access;
        let common = match (issuer(config)?, &options.token_file) {
            (Some(_), Some(_)) => {
                return Err(Misconfigured::error(
                    "token_file and oauth_token_url exclude each other: set the one or the other. A peer with a token of \
                     its own has hsm_token_file or bos_token_file",
                ));
            }
            (Some(issuer), None) => Credentials::Issued(Arc::new(issuer)),
            (None, Some(path)) => of_file(path),
            (None, None) => Credentials::None,
        };
        if let (Credentials::Issued(_), Some(_), Some(_)) =
            (&common, &options.hsm.token_file, &options.bos.token_file)
        {
            return Err(Misconfigured::error(
                "oauth_token_url is set and no peer is left for its tokens: hsm_token_file and bos_token_file are set, too. \
                 Take out the one or the others",
            ));
        }
        Ok(Access { options, common })
    }

    /// What a peer alone has goes before what both have.
    fn credentials(&self, own: &OwnFiles) -> Credentials {
        own.token_file.as_deref().map_or_else(|| self.common.clone(), of_file)
    }

    fn tls(&self, name: &str, own: &OwnFiles) -> anyhow::Result<TlsFiles> {
        let identity = identity(name, own.cert_file.as_deref(), own.key_file.as_deref())?;
        let ca_file = own.ca_file.as_ref().or(self.options.ca_file.as_ref()).cloned();
        Ok(TlsFiles { ca_file, identity, ..TlsFiles::default() })
    }
}

/// The certificate that we show, if we do.
fn identity(name: &str, cert: Option<&Path>, key: Option<&Path>) -> anyhow::Result<Option<IdentityFiles>> {
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => {
            Ok(Some(IdentityFiles { cert_file: cert.to_owned(), key_file: key.to_owned() }))
        }
        _ => {
            let why = format!("{name}_cert_file and {name}_key_file go together: set both, or none");
            Err(Misconfigured::error(why))
        }
    }
}

fn of_file(path: &Path) -> Credentials {
    if let Err(error) = fs::metadata(path) {
        warn!(path = %path.display(), %error, "there is no token yet: HSM and BOS may refuse us");
    }
    Credentials::TokenFile(path.to_owned())
}

/// Where tokens are fetched, if they are.
fn issuer(config: &Config) -> anyhow::Result<Option<TokenIssuer>> {
    let oauth = &config.access.oauth;
    let identity = identity("oauth", oauth.cert_file.as_deref(), oauth.key_file.as_deref())?;
    let OauthOptions { token_url, client_id, client_secret_file, client_auth, scope, ca_file, .. } = oauth;
    let (url, client_id, client_secret_file) = match (token_url, client_id, client_secret_file) {
        (Some(url), Some(id), Some(secret)) => (url, id.clone(), secret.clone()),
        (None, None, None) => return Ok(None),
        _ => {
            let why = "oauth_token_url, oauth_client_id and oauth_client_secret_file go together: set all three, or none";
            return Err(Misconfigured::error(why));
        }
    };
    let url: BaseUrl = url.parse().context("oauth_token_url is of no use")?;
    if !url.is_https() && !url.is_loopback() {
        warn!(%url, "the client's secret goes to the issuer of tokens in the clear: give it an https:// URL (oauth_token_url)");
    }
    if let Err(error) = fs::metadata(&client_secret_file) {
        let path = client_secret_file.display();
        warn!(%path, %error, "there is no client's secret yet: no token can be fetched, and HSM and BOS not be asked");
    }
    let total_timeout = Duration::from_millis(config.call_timeout_ms).min(ISSUER_TIMEOUT);
    let ca_file = ca_file.as_ref().or(config.access.ca_file.as_ref()).cloned();
    let issuer = TokenIssuer::new(IssuerConfig {
        url,
        client_id,
        client_secret_file,
        client_auth: *client_auth,
        scope: scope.clone(),
        connect_timeout: Duration::from_secs(5).min(total_timeout),
        total_timeout,
        tls: TlsFiles { ca_file, identity, ..TlsFiles::default() },
    });
    let set_up = issuer.context(
        "failed to set up the client of the issuer of tokens (oauth_ca_file or ca_file, oauth_cert_file, oauth_key_file)",
    );
    set_up.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(set: impl FnOnce(&mut AccessOptions)) -> String {
        let mut config = Config::default();
        set(&mut config.access);
        let error = Peers::new(&config).map(drop).unwrap_err();
        format!("{error:#}")
    }

    fn oauth() -> OauthOptions {
        OauthOptions {
            token_url: Some("https://keycloak/token".to_owned()),
            client_id: Some("admin-client".to_owned()),
            client_secret_file: Some("/nowhere/secret".into()),
            ..OauthOptions::default()
        }
    }

    #[test]
    fn what_does_not_go_together_is_told_with_its_options() {
        let file = || Some(PathBuf::from("/nowhere/file"));
        let told = refused(|access| access.hsm.cert_file = file());
        assert_eq!(told, "hsm_cert_file and hsm_key_file go together: set both, or none");
        let told = refused(|access| access.bos.key_file = file());
        assert_eq!(told, "bos_cert_file and bos_key_file go together: set both, or none");
        let told = refused(|access| access.oauth = OauthOptions { cert_file: file(), ..oauth() });
        assert_eq!(told, "oauth_cert_file and oauth_key_file go together: set both, or none");
        let told = refused(|access| (access.token_file, access.oauth) = (file(), oauth()));
        assert!(told.starts_with("token_file and oauth_token_url exclude each other: "), "{told}");
        let told = refused(|access| {
            (access.hsm.token_file, access.bos.token_file, access.oauth) = (file(), file(), oauth());
        });
        assert!(told.starts_with("oauth_token_url is set and no peer is left for its tokens: "), "{told}");
        for part in [
            OauthOptions { token_url: None, ..oauth() },
            OauthOptions { client_id: None, ..oauth() },
            OauthOptions { client_secret_file: None, ..oauth() },
        ] {
            let told = refused(|access| access.oauth = part);
            assert!(told.ends_with("go together: set all three, or none"), "{told}");
        }
    }

    #[test]
    fn the_version_of_bos_and_its_url_fit_together() {
        let url = |api: &str, url: Option<&str>| {
            let mut config = Config { bos_api: api.parse().unwrap(), ..Config::default() };
            if let Some(url) = url {
                url.clone_into(&mut config.bos_url);
            }
            bos_url(&config).map_err(|error| error.to_string())
        };
        let fits = |text: &str| Ok::<_, String>(text.to_owned());
        assert_eq!(url("v2", None), fits("https://api-gw-service-nmn.local/apis/bos/v2"));
        assert_eq!(url("v1", None), fits("https://api-gw-service-nmn.local/apis/bos/v1"));
        assert_eq!(url("v1", Some("http://bos/v1")), fits("http://bos/v1"));
        assert_eq!(
            url("v1", Some("http://bos/old")),
            fits("http://bos/old"),
            "a gateway may call it as it likes"
        );
        assert_eq!(url("v1", Some("http://bos/tv2")), fits("http://bos/tv2"));
        let told = "bos_url ends in /v2, and bos_api is v1: have bos_url end in /v1, or set bos_api to v2";
        assert_eq!(url("v1", Some("http://bos/v2/")), Err(told.to_owned()));
        assert!(url("v2", Some("http://bos/v1")).is_err());
        assert_eq!("v3".parse::<BosApi>(), Err(()));
    }

    #[test]
    fn a_file_of_no_use_is_told_with_its_option() {
        let file = || Some(PathBuf::from("/nowhere/file"));
        let missing = "failed to read the CA certificates in /nowhere/file: entity not found";
        let told = refused(|access| access.bos.ca_file = file());
        let expected = format!(
            "failed to set up the client of BOS (bos_ca_file or ca_file, bos_cert_file, bos_key_file): {missing}"
        );
        assert_eq!(told, expected);
        let told = refused(|access| {
            access.oauth = OauthOptions { ca_file: file(), ..oauth() };
        });
        assert_eq!(
            told,
            format!(
                "failed to set up the client of the issuer of tokens (oauth_ca_file or ca_file, oauth_cert_file, \
                 oauth_key_file): {missing}"
            )
        );
    }

    #[test]
    fn a_peers_own_files_go_before_those_of_both() {
        let mut config = Config::default();
        config.access.ca_file = Some("/ca".into());
        config.access.bos = OwnFiles {
            ca_file: Some("/bos-ca".into()),
            token_file: Some("/token".into()),
            ..OwnFiles::default()
        };
        let access = Access { options: &config.access, common: Credentials::None };
        let ca = |own| access.tls("bos", own).unwrap().ca_file.unwrap();
        assert_eq!(ca(&config.access.bos), Path::new("/bos-ca"));
        assert_eq!(ca(&config.access.hsm), Path::new("/ca"));
        assert!(
            matches!(access.credentials(&config.access.bos), Credentials::TokenFile(path) if path == Path::new("/token"))
        );
        assert!(matches!(access.credentials(&config.access.hsm), Credentials::None));
    }
}
