//! The installation for systemd, done as the guide tells it, line by line, with what is shipped: on a copy of this machine's
//! `/usr`, `/etc` and `/var` that is gone with the test.
//!
//! No systemd manages a test, and no slurmdbd knows users: what they are asked for is taken down instead, and the service
//! started as its unit says.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crus_server::VERSION;

const GUIDE: &str = include_str!("../docs/installing.md");
const UNIT: &str = include_str!("../packaging/systemd/crus.service");

/// Hides this machine behind the copy, does what the guide says, and starts the service as systemd would. The arguments: the
/// archive, the guide's commands, and the command of the unit.
const MACHINE: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
# It is of this machine's architecture, whatever the guide calls it.
cp "$1" "/mnt/$(printf '%s' "$2" | sed -n 's/^tar -xzf \(\S*\) .*/\1/p')"
for place in usr etc var; do
    mkdir -p "/mnt/above/$place" "/mnt/work/$place"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=/mnt/above/$place,workdir=/mnt/work/$place" "/$place"
done
for place in run tmp root; do
    mount -t tmpfs -o mode=755 tmpfs "/$place"
done
# Users and folders of other packages are not ours to make.
rm -f /usr/lib/sysusers.d/* /usr/lib/tmpfiles.d/* /etc/sysusers.d/* /etc/tmpfiles.d/*
for program in systemctl sacctmgr; do
    printf '#!/bin/sh\necho "$0 $*" >>/root/asked\n' >"/usr/local/bin/$program"
    chmod 755 "/usr/local/bin/$program"
done
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LC_ALL=C.UTF-8
cd /mnt
printf '%s\n' "$2" >/root/commands
sh -eux /root/commands

echo "asked: $(tr '\n' ';' </root/asked)"
stat --format 'file: %n %a %U:%G' /etc/crus/crus.toml /etc/crus/tokens /etc/crus/secrets /usr/bin/crus
echo "hidden: $(stat --format %a ada)"
SYSTEMD_OFFLINE=1 /usr/bin/systemctl enable crus 2>&1
echo "enabled: $(basename "$(readlink /etc/systemd/system/multi-user.target.wants/crus.service)")"

# Nobody is asked here but the service itself; and a port may be taken.
printf '%s\n' 'hsm_url = "http://127.0.0.1:9"' 'bos_url = "http://127.0.0.1:9"' 'listen = "127.0.0.1:0"' >>/etc/crus/crus.toml
install -d -m 700 -o crus -g crus /var/lib/crus
mkfifo /mnt/printed
setpriv --reuid crus --regid crus --init-groups --no-new-privs --inh-caps=-all --bounding-set=-all env -i $3 >/mnt/printed &
read -r line </mnt/printed
url=${line#listening on }
code() { curl --silent --output /dev/null --write-out '%{http_code}' "$@" "$url/session"; }
echo "answers: $(code), and with the token $(code --header "Authorization: Bearer $(sed -n 1p ada)")"
kill "$!"
wait "$!"
echo "ended: $?"
"#;

/// The folder that is shipped; the archive is beside it.
fn shipped() -> PathBuf {
    std::env::var_os("CRUS_TEST_DIST").expect("CRUS_TEST_DIST names the folder of cargo xtask dist").into()
}

/// The commands of the guide for systemd.
fn commands() -> &'static str {
    let (_, systemd) = GUIDE.split_once("\n## As a service of systemd\n").unwrap();
    let (_, commands) = systemd.split_once("\n```sh\n").unwrap();
    commands.split_once("\n```\n").unwrap().0
}

#[test]
fn the_commands_are_of_this_version_and_make_tokens_before_the_service_is_started() {
    let commands = commands();
    assert!(commands.contains(&format!("tar -xzf crus-{VERSION}-")), "{commands}");
    let at = |what: &str| commands.find(what).unwrap_or_else(|| panic!("{what}: {commands}"));
    assert!(
        at("systemd-sysusers") < at("-g crus") && at("auth_token_file") < at("systemctl enable --now crus")
    );
}

#[test]
#[ignore = "needs what is shipped, and to be root: `cargo xtask test` makes it and runs this"]
fn what_is_shipped_is_installed_as_the_guide_says_and_then_runs() {
    let shipped = shipped();
    let archive = format!("{}.tar.gz", shipped.to_str().unwrap());
    let (_, start) = UNIT.split_once("\nExecStart=").unwrap();
    let start = start.split('\n').next().unwrap();
    let mut machine = Command::new("unshare");
    machine.args(["--mount", "bash", "-c", MACHINE, "machine"]).args([&archive, commands(), start]);
    let output = machine.stdin(Stdio::null()).output().unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("Created symlink")).collect();
    assert_eq!(
        said,
        [
            "asked: /usr/local/bin/sacctmgr add user crus account=root adminlevel=Operator;\
             /usr/local/bin/systemctl enable --now crus;",
            "file: /etc/crus/crus.toml 644 root:root",
            "file: /etc/crus/tokens 640 root:crus",
            "file: /etc/crus/secrets 700 root:root",
            "file: /usr/bin/crus 755 root:root",
            "hidden: 600",
            "enabled: crus.service",
            "answers: 401, and with the token 200",
            "ended: 0",
        ],
        "{error}"
    );
    assert!(output.status.success(), "{error}");
}
