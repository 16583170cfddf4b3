# What the shell of a page knows; nothing of it is on the page.
shopt -s expand_aliases

# When the test is killed, the end of its input ends this shell, and all that it started.
trap "kill -KILL 0" EXIT

# As on a reader's terminal, `crus` prints tables where it prints to the page, and JSON into a pipe.
crus() {
    local word tables=no
    if [ /proc/self/fd/1 -ef "/proc/$$/fd/1" ]; then
        case "$1 $2" in plan\ * | session\ list | session\ describe | session\ nodes | session\ events | session\ create | \
            session\ pause | session\ resume | session\ retry | session\ delete) tables=yes ;;
        esac
        for word in "$@"; do
            case $word in -o | --format | --format=* | -o* | --help | --wait) tables=no ;; esac
        done
    fi
    if [ $tables = yes ]; then command crus "$@" --format table; else command crus "$@"; fi
}

# start_service [OPTION…]: crus serve in the background; CRUS_URL and SERVICE (its pid) are set once it listens.
# Its log is in serve.log.
start_service() {
    : >serve.out
    env "${SERVICE_ENVIRONMENT[@]}" crus serve "$@" >serve.out 2>>serve.log &
    SERVICE=$!
    service_listens
}

# Waits for the first line of a service that was started with its output in serve.out.
service_listens() {
    local url tries
    for ((tries = 0; tries < 1200; tries++)); do
        url=$(sed -n 's/^listening on //p' serve.out)
        if [ -n "$url" ]; then
            export CRUS_URL=$url
            return
        fi
        kill -0 "$SERVICE" 2>/dev/null || break
        sleep 0.05
    done
    cat serve.out serve.log
    return 1
}

# Ends it with this signal (TERM) and waits until it is gone.
stop_service() {
    kill -s "${1:-TERM}" "$SERVICE"
    wait "$SERVICE" 2>/dev/null
    true
}

# until_true COMMAND…: again and again until it succeeds.
until_true() {
    local tries
    for ((tries = 0; tries < 1200; tries++)); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    echo "never true: $*"
    return 1
}

# until_said ID TEXT: until the session said so.
until_said() {
    until_true eval "command crus session describe $1 -o json | jq -r '.messages[]' | grep -qF \"$2\""
}

# until_done ID: until the session is completed.
until_done() {
    until_true eval "[ \"\$(command crus session describe $1 -o json | jq .completed)\" = true ]"
}

# Of the simulated cluster: sim METHOD PATH [BODY].
sim() {
    if [ $# = 3 ]; then
        curl -sS --fail -X "$1" "$SIM$2" -H 'content-type: application/json' -d "$3" >/dev/null
    else
        curl -sS --fail -X "$1" "$SIM$2" >/dev/null
    fi
}

# speed N: virtual seconds in a real one, from now on.
speed() {
    sim POST /time "{\"speed\":$1}"
}

# start_etcd FOLDER: another etcd of one member on this data; ETCD is where it is from then on.
start_etcd() {
    local tries port
    for ((tries = 0; tries < 10; tries++)); do
        # Somebody may have one of the two: then it ends at once.
        port=$((20000 + RANDOM % 10000))
        etcd --data-dir "$1" --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
            --listen-peer-urls "http://127.0.0.1:$((port + 10000))" >etcd.log 2>&1 &
        export ETCD=http://127.0.0.1:$port
        if until_true eval "! kill -0 $! || etcdctl --endpoints $ETCD endpoint health" && kill -0 $! 2>/dev/null; then return; fi
    done
    cat etcd.log
    return 1
}
