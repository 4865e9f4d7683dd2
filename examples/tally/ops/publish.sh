# publish.sh ARCHIVE SHA256: needs the write lock on release/stable. May be run twice: the second time changes nothing.
. ops/begin
[ "$(sha256 "build/$1")" = "$2" ] || { echo "build/$1 is not what was packaged" >&2; exit 1; }
mkdir -p release
cp "build/$1" "release/$1.$AMPHI_ATTEMPT"
into_place "release/$1"
touch release/log
grep -q " $AMPHI_IDEMPOTENCY_KEY\$" release/log || echo "$1 $2 $AMPHI_IDEMPOTENCY_KEY" >>release/log
sleep 0.5
