# Shares an X display, where the display is: needs a POSIX shell there, and nothing of ours.
# It ends, with all that it started, when its standard input does: then nobody listens.
#
# Set before: folder; display (a number, or a name such as :0); tries (0: the display is
# there already); size; window_manager, startup, start_command, stop_command, auth; port
# (empty: a unix socket in the folder); public; password (yes: 8 bytes on standard input).

umask 077
exec 3<&0 0</dev/null
say() { echo "wsserver: $*"; }
fail() { echo "wsserver failed: $*"; exit 1; }

finish() {
    trap '' TERM HUP INT
    trap - EXIT
    # Whatever hangs below, this comes.
    { sleep 5; rm -rf "$folder"; kill -KILL 0; } &
    [ -z "$stop_command" ] || eval "$stop_command"
    kill -TERM 0
    # shellcheck disable=SC2086  # a list of numbers
    wait $started
    rm -rf "$folder"
    # What escaped the list, and the five seconds above.
    kill -KILL 0
}

run() {
    "$@" &
    started="$started $!"
}

started=""
trap 'exit 143' TERM HUP INT
trap finish EXIT
mkdir "$folder" || fail "the folder $folder cannot be made"
[ "$password" != yes ] || dd bs=8 count=1 of="$folder/password" <&3 2>/dev/null
main=$$
{ cat <&3 >/dev/null; kill -TERM "$main"; } &
command -v x11vnc >/dev/null || fail "x11vnc is not installed"

cookie() {
    # The format of X authority files; a shell has no other way to write a zero byte.
    printf '\377\377\0\0\0\%03o%s\0\022MIT-MAGIC-COOKIE-1\0\020' "${#1}" "$1" >"$folder/authority"
    head -c 16 /dev/urandom >>"$folder/authority"
}

has_screen() {
    [ -S "/tmp/.X11-unix/X$1" ] && [ "$(tr -d ' ' <"/tmp/.X$1-lock")" = "$2" ]
}

start_xvfb() {
    command -v Xvfb >/dev/null || fail "Xvfb is not installed"
    auth=$folder/authority
    last=$((display + tries))
    while [ "$display" -lt "$last" ]; do
        say "starting Xvfb on :$display"
        cookie "$display"
        run Xvfb ":$display" -screen 0 "${size}x24" -nolisten tcp -auth "$auth"
        while kill -0 $! 2>/dev/null; do
            has_screen "$display" $! 2>/dev/null && return
            sleep 0.05
        done
        say "display :$display is taken, trying :$((display + 1))"
        display=$((display + 1))
    done
    fail "no display is free"
}

start_screen() {
    number=${display#:}
    # Somebody's session of before may live on there.
    [ ! -S "/tmp/.X11-unix/X$number" ] || fail "display :$number is taken"
    say "starting the X server"
    eval "$start_command" &
    screen=$!
    started="$started $screen"
    until [ -S "/tmp/.X11-unix/X$number" ]; do
        # One that has gone well may have left the X server running.
        kill -0 "$screen" 2>/dev/null || wait "$screen" || fail "the X server ended, with status $?"
        sleep 0.1
    done
}

if [ "$tries" -gt 0 ]; then
    start_xvfb
    DISPLAY=:$display XAUTHORITY=$auth
    export DISPLAY XAUTHORITY
    for command in "$window_manager" "$startup"; do
        [ -n "$command" ] || continue
        eval "run $command"
    done
elif [ -n "$start_command" ]; then
    start_screen
fi

say "starting x11vnc"
set -- -display ":${display#:}" -forever -shared -quiet -noxrecord -noipv6 -no6 -rfbportv6 0
[ -z "$auth" ] || set -- "$@" -auth "$auth"
if [ "$password" = yes ]; then set -- "$@" -rfbauth "$folder/password"; else set -- "$@" -nopw; fi
if [ -z "$port" ]; then
    set -- "$@" -unixsock "$folder/vnc" -rfbport 0
elif [ "$public" = yes ]; then
    set -- "$@" -rfbport "$port"
else
    set -- "$@" -rfbport "$port" -localhost
fi
run x11vnc "$@"
server=$!
while [ -z "$port" ] && kill -0 "$server" 2>/dev/null && [ ! -S "$folder/vnc" ]; do sleep 0.05; done
say "waiting for x11vnc"
wait "$server"
fail "x11vnc ended, with status $?"
