# shellcheck shell=bash
# Throw-away PostgreSQL clusters for scripts/bench and scripts/demo; sourced, not run. Each listens on a Unix socket only
# and trusts everybody who can reach it; the directory that holds it is the caller's.

# find_postgres [MAJOR|DIR]: the directory of the server programs. Without an argument 17, else the newest there is.
find_postgres() {
    local installed=${PGCOPYDB_POSTGRES_DIR:-} dir
    # As scripts/install-postgres chooses it.
    if [[ -z $installed && $(id -u) -eq 0 ]]; then
        installed=/var/cache/pgcopydb/postgres
    elif [[ -z $installed ]]; then
        installed=${HOME:-/tmp}/.cache/pgcopydb/postgres
    fi
    local candidates=("${1:-}" "$installed/${1:-17}/bin" "/usr/lib/postgresql/${1:-17}/bin")
    # What was asked for by name is not replaced by something else.
    if [[ -z ${1:-} ]]; then
        while read -r dir; do
            candidates+=("$dir")
        done < <(printf '%s\n' "$installed"/*/bin /usr/lib/postgresql/*/bin | sort -rV)
    fi
    for dir in "${candidates[@]}"; do
        if [[ -n $dir && -x $dir/initdb ]]; then
            echo "$dir"
            return
        fi
    done
    echo "no PostgreSQL ${1:-server} found: run scripts/install-postgres" >&2
    return 1
}

# client NAME: the program beside the server, else the newest installed; some builds leave pgbench or psql out.
client() {
    local dir
    while read -r dir; do
        if [[ -x $dir/$1 ]]; then
            echo "$dir/$1"
            return
        fi
    done < <(echo "$PGBIN"; printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV)
    echo "no program $1 found: run scripts/install-postgres" >&2
    return 1
}

# Servers refuse to run as root.
as_server_user() {
    if [[ $(id -u) -eq 0 ]]; then
        (cd / && runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

# make_dir DIR: one that the server user owns.
make_dir() {
    mkdir -p "$1"
    if [[ $(id -u) -eq 0 ]]; then
        chown postgres: "$1"
    fi
}

# start_cluster DIR PORT SOCKET_DIR [SETTING..]: created on first use, kept if it is there.
start_cluster() {
    local dir=$1 port=$2 sockets=$3
    shift 3
    make_dir "$dir"
    if [[ ! -s $dir/data/PG_VERSION ]]; then
        as_server_user "$PGBIN/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync \
            >"$dir.initdb.log" 2>&1 || { cat "$dir.initdb.log" >&2; return 1; }
    fi
    {
        echo "listen_addresses = ''"
        echo "unix_socket_directories = '$sockets'"
        echo "port = $port"
        printf '%s\n' "$@"
    } >"$dir/data/postgresql.auto.conf"
    # Of a run that was killed.
    stop_cluster "$dir"
    # The server outlives a caller that is killed; it must not keep its lock (descriptor 9).
    as_server_user "$PGBIN/pg_ctl" -D "$dir/data" -l "$dir/server.log" -w -t 120 start >/dev/null 9>&- ||
        { tail -n 20 "$dir/server.log" >&2; return 1; }
}

stop_cluster() {
    if [[ -f $1/data/postmaster.pid ]]; then
        as_server_user "$PGBIN/pg_ctl" -D "$1/data" -m fast -w stop >/dev/null 2>&1 || true
    fi
}
