. ops/begin
version=$(cat VERSION)
[ "$version" = "$1" ] || { echo "VERSION says $version, the release is $1" >&2; exit 1; }
cat src/*.h src/*.c VERSION >"$TMPDIR/all"
echo "version=$version" >>"$AMPHI_OUTPUT"
echo "sources=$(sha256 "$TMPDIR/all")" >>"$AMPHI_OUTPUT"
