#include "tally.h"

static int is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

void tally_feed(struct tally *counts, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        counts->bytes++;
        counts->lines += text[i] == '\n';
        if (is_space(text[i])) {
            counts->in_word = 0;
        } else {
            counts->words += !counts->in_word;
            counts->in_word = 1;
        }
    }
}
