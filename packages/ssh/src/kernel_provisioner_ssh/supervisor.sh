# Keeps one kernel, on the host where it runs. POSIX sh; sent along with each launch, run in the kernel's directory:
#
#     sh supervisor.sh run LEASE STEP CONNECTION_FILE | sh supervisor.sh log
#
# LEASE: seconds that the kernel lives without its owner, 0 for ever. STEP: seconds between two looks at the lease.
# CONNECTION_FILE: where the kernel writes its ports back; empty if it does not.
#
# Files here: kernel.sh (what is run), owners (directories of those who answer for the kernel, one a line; each has a
# `lease` that changes and a fifo `events`), pid (pid, start time, group), supervisor (likewise), ports, exit, log.
#
# All is one process group. The signals that go to the group are caught or ignored here, so that they reach the kernel only.

name=${PWD##*/}

tell() {
  while IFS= read -r owner; do
    # opened for reading too, so that it does not wait where nobody reads
    [ -p "$owner/events" ] && echo "$1" 1<>"$owner/events"
  done <owners
}

watch_lease() {
  old= left=$1
  while sleep "$2"; do
    new=
    while IFS= read -r owner; do
      stamp=
      { read -r stamp <"$owner/lease"; } 2>/dev/null
      new=$new/$stamp
    done <owners
    if [ "$new" != "$old" ]; then
      old=$new left=$1
      continue
    fi
    left=$((left - $2))
    [ "$left" -gt 0 ] && continue
    : >expired
    kill -s TERM -- "-$group"
    sleep 3
    end_kernel
    return
  done
}

end_kernel() {
  read -r kernel kernel_started kernel_group <pid || return
  identify "$kernel" && [ "$started" = "$kernel_started" ] && kill -s KILL "$kernel"
}

# The file is at times absent, empty or cut off on the way.
watch_ports() {
  while [ ! -e exit ]; do
    content=$(tr -d ' \t\r\n' <"$1" 2>/dev/null)
    ports= complete=1
    case $content in *\}) ;; *) complete= ;; esac
    for port in shell iopub stdin control hb; do
      number=${content#*\"${port}_port\":}
      number=${number%%[!0-9]*}
      case $number in '' | 0*) complete= ;; esac
      ports="$ports $number"
    done
    if [ -n "$complete" ]; then
      echo "$ports" >ports.tmp && mv -f ports.tmp ports
      tell "ports $name$ports"
      return
    fi
    sleep 0.02 2>/dev/null || sleep 1
  done
}

identify "$$" || exit 1

case $1 in
run)
  # caught, not ignored: what is ignored here would stay ignored in the kernel
  trap : HUP INT QUIT TERM
  echo "$$ $started $group" >supervisor
  if [ "$2" -gt 0 ]; then
    (trap '' HUP INT QUIT TERM && watch_lease "$2" "$3") </dev/null >/dev/null 2>&1 &
  fi
  if [ -n "$4" ]; then
    (trap '' HUP INT QUIT TERM && watch_ports "$4") </dev/null >/dev/null 2>&1 &
  fi
  /bin/sh ./kernel.sh </dev/null
  status=$?
  {
    echo "$status" >exit.tmp && mv -f exit.tmp exit
    tell "exit $name $status"
  } >/dev/null 2>&1
  # What the kernel has left running holds the log open.
  (trap '' HUP INT QUIT TERM && sleep 1 && kill -s KILL -- "-$group") </dev/null >/dev/null 2>&1 &
  ;;
log)
  trap '' HUP INT QUIT TERM
  # Twice a megabyte at most, of the last output.
  while dd bs=4096 count=256 >log 2>/dev/null && [ -s log ]; do
    mv -f log log.1
  done
  [ -e expired ] && rm -rf "$PWD"
  kill -s KILL -- "-$group"
  ;;
esac
