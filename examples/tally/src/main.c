/* tally [--top N] FILE, tally --version */
#include "tally.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef TALLY_VERSION
#define TALLY_VERSION "unreleased"
#endif

static char *read_all(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    size_t used = 0, size = 0;
    while (file && !feof(file) && !ferror(file)) {
        if (used == size) {
            char *more = realloc(text, size = size ? size * 2 : 4096);
            if (!more)
                break;
            text = more;
        }
        used += fread(text + used, 1, size - used, file);
    }
    if (!file || ferror(file) || !feof(file)) {
        free(text);
        text = NULL;
    }
    if (file)
        fclose(file);
    *length = used;
    return text;
}

static int top(const char *text, size_t length, size_t wanted)
{
    struct tally_entry *entries = calloc(wanted, sizeof *entries);
    long found = entries ? tally_top(text, length, entries, wanted) : -1;
    for (long i = 0; i < found; i++)
        printf("%lu %s\n", entries[i].times, entries[i].word);
    tally_top_free(entries, found);
    free(entries);
    return found < 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("tally " TALLY_VERSION);
        return 0;
    }
    int wants_top = argc == 4 && strcmp(argv[1], "--top") == 0;
    if (!wants_top && argc != 2) {
        fputs("usage: tally [--top N] FILE | tally --version\n", stderr);
        return 2;
    }
    const char *path = argv[argc - 1];
    size_t length;
    char *text = read_all(path, &length);
    if (!text) {
        fprintf(stderr, "tally: cannot read %s\n", path);
        return 1;
    }
    int status = 0;
    if (wants_top) {
        long wanted = atol(argv[2]);
        status = wanted < 1 || top(text, length, (size_t)wanted);
    } else {
        struct tally counts = {0};
        tally_feed(&counts, text, length);
        printf("%lu %lu %lu %s\n", counts.lines, counts.words, counts.bytes, path);
    }
    free(text);
    return status;
}
