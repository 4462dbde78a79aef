# The stream at $1 as a script with curl reads it, a line at a time, reconnected with the last id. Output as of
# eventsource.mjs. The id of a frame stands last: a whole line with an id means that the frame is there.
set -u
last='' status=$(mktemp)
trap 'rm -f "$status"' EXIT
show() {
  local data=${3//\\/\\\\}
  printf '["%s", "%s", "%s"]\n' "$1" "$2" "${data//\"/\\\"}"
}
until [ "$(cat "$status")" = 204 ]; do
  event='' data=''
  while IFS= read -r line; do
    case $line in
    'event: '*) event=${line#event: } ;;
    'data: '*) data=${line#data: } ;;
    'id: '*)
      last=${line#id: }
      show "$last" "$event" "$data"
      case $event$data in record*'"type":"session.ended"'*) exit ;; esac
      ;;
    '') [ "$event" = delta ] && show '' delta "$data" ;;
    esac
  done < <(curl -sN ${last:+-H "Last-Event-ID: $last"} -w '%{stderr}%{http_code}' "$1" 2>"$status")
  sleep 0.2
done
show '' closed ''
