/* A hash table with open addressing, then a sort. */
#include "tally.h"

#include <stdlib.h>
#include <string.h>

struct table {
    struct tally_entry *slots;
    size_t size; /* a power of two */
    size_t used;
};

static int is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static size_t hash(const char *word)
{
    size_t value = 1469598103934665603u;
    for (; *word; word++)
        value = (value ^ (unsigned char)*word) * 1099511628211u;
    return value;
}

static struct tally_entry *slot_of(struct tally_entry *slots, size_t size, const char *word)
{
    size_t at = hash(word) & (size - 1);
    while (slots[at].word && strcmp(slots[at].word, word) != 0)
        at = (at + 1) & (size - 1);
    return &slots[at];
}

static int grow(struct table *table)
{
    size_t size = table->size ? table->size * 2 : 64;
    struct tally_entry *slots = calloc(size, sizeof *slots);
    if (!slots)
        return -1;
    for (size_t i = 0; i < table->size; i++)
        if (table->slots[i].word)
            *slot_of(slots, size, table->slots[i].word) = table->slots[i];
    free(table->slots);
    table->slots = slots;
    table->size = size;
    return 0;
}

/* Takes over `word`. */
static int add(struct table *table, char *word)
{
    if (table->used * 2 >= table->size && grow(table) != 0) {
        free(word);
        return -1;
    }
    struct tally_entry *slot = slot_of(table->slots, table->size, word);
    if (slot->word) {
        free(word);
    } else {
        slot->word = word;
        table->used++;
    }
    slot->times++;
    return 0;
}

static int more_frequent(const void *left, const void *right)
{
    const struct tally_entry *a = left, *b = right;
    if (a->times != b->times)
        return a->times < b->times ? 1 : -1;
    return strcmp(a->word, b->word);
}

static int collect(struct table *table, const char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t end = at;
        while (end < length && !is_space(text[end]))
            end++;
        if (end > at) {
            char *word = malloc(end - at + 1);
            if (!word)
                return -1;
            for (size_t i = at; i < end; i++)
                word[i - at] = text[i] ? lower(text[i]) : '?';
            word[end - at] = '\0';
            if (add(table, word) != 0)
                return -1;
        }
        at = end + 1;
    }
    return 0;
}

long tally_top(const char *text, size_t length, struct tally_entry *entries, size_t wanted)
{
    struct table table = {0};
    int failed = collect(&table, text, length);
    size_t found = 0;
    for (size_t i = 0; i < table.size; i++)
        if (table.slots[i].word)
            table.slots[found++] = table.slots[i];
    size_t kept = failed ? 0 : found < wanted ? found : wanted;
    if (found)
        qsort(table.slots, found, sizeof *table.slots, more_frequent);
    for (size_t i = 0; i < found; i++) {
        if (i < kept)
            entries[i] = table.slots[i];
        else
            free(table.slots[i].word);
    }
    free(table.slots);
    return failed ? -1 : (long)kept;
}

void tally_top_free(struct tally_entry *entries, long found)
{
    for (long i = 0; i < found; i++)
        free(entries[i].word);
}
