# package.sh VERSION
. ops/begin
archive=tally-$1.tar.gz
python3 tools/pack.py "build/$archive.$AMPHI_ATTEMPT" "build/tally=tally-$1/bin/tally" "samples/fox.txt=tally-$1/samples/fox.txt" "VERSION=tally-$1/VERSION"
into_place "build/$archive"
cp "build/$archive" "$AMPHI_ARTIFACTS/"
echo "archive=$archive" >>"$AMPHI_OUTPUT"
echo "sha256=$(sha256 "build/$archive")" >>"$AMPHI_OUTPUT"
