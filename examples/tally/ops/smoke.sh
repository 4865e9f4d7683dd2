# smoke.sh ARCHIVE VERSION STEP: as a user would, from the published archive.
. ops/begin
python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "release/$1" "$TMPDIR"
cd "$TMPDIR/tally-$2"
case $3 in
version) [ "$(bin/tally --version)" = "tally $2" ] ;;
count) [ "$(bin/tally samples/fox.txt)" = "3 11 52 samples/fox.txt" ] ;;
top) [ "$(bin/tally --top 1 samples/fox.txt)" = "3 the" ] ;;
esac
