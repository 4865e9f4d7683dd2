# compile.sh UNIT VERSION: a unit is a source file with dots for slashes, without `.c`, as values of a matrix have no slashes.
. ops/begin
name=${1##*.}
mkdir -p build
cc -std=c11 -O2 -g -Wall -Wextra -Werror -DTALLY_VERSION="\"$2\"" -c "$(echo "$1" | tr . /).c" -o "build/$name.o.$AMPHI_ATTEMPT"
into_place "build/$name.o"
