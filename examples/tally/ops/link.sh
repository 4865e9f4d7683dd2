# link.sh PROGRAM OBJECT…
. ops/begin
program=$1
shift
cc "$@" -o "build/$program.$AMPHI_ATTEMPT"
into_place "build/$program"
cp "build/$program" "$AMPHI_ARTIFACTS/"
