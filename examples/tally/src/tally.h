/* Counting lines, words and bytes, and the most frequent words. ASCII white space separates words. */
#ifndef TALLY_H
#define TALLY_H

#include <stddef.h>

/* Counts so far; begin with all zero. */
struct tally {
    unsigned long lines;
    unsigned long words;
    unsigned long bytes;
    int in_word;
};

/* Counts the next piece of a text. Pieces may be cut anywhere. */
void tally_feed(struct tally *counts, const char *text, size_t length);

/* One word and how often it occurs. */
struct tally_entry {
    char *word;
    unsigned long times;
};

/*
 * The most frequent words of a text in lower case, at most `wanted`, the most frequent first, equally frequent ones by name.
 * Returns how many were found, or -1 without memory. Free with tally_top_free.
 */
long tally_top(const char *text, size_t length, struct tally_entry *entries, size_t wanted);

void tally_top_free(struct tally_entry *entries, long found);

#endif
