# publish.sh ARCHIVE SHA256: needs the write lock on release/stable. May be run twice: the second time changes nothing.
. ops/begin
from=$AMPHI_INPUTS/package/$1
[ "$(sha256 "$from")" = "$2" ] || { echo "$from is not what was packaged" >&2; exit 1; }
mkdir -p release
cp "$from" "release/$1.$AMPHI_ATTEMPT"
into_place "release/$1"
touch release/log
grep -q " $AMPHI_IDEMPOTENCY_KEY\$" release/log || echo "$1 $2 $AMPHI_IDEMPOTENCY_KEY" >>release/log
sleep 0.5
