# checksum.sh ARCHIVE SHA256: the archive is what was packaged, and packing once more gives the same bytes.
. ops/begin
[ "$(sha256 "build/$1")" = "$2" ] || { echo "build/$1 is not what was packaged" >&2; exit 1; }
version=${1#tally-}
version=${version%.tar.gz}
python3 tools/pack.py "$TMPDIR/again" "build/tally=tally-$version/bin/tally" "samples/fox.txt=tally-$version/samples/fox.txt" "VERSION=tally-$version/VERSION"
cmp "$TMPDIR/again" "build/$1"
