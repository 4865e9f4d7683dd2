/* unit SUITE ROUNDS: fixed cases, then ROUNDS random texts against a second, simple implementation. Exit 1 names what differs. */
#include "../src/tally.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 400

static unsigned long seed = 88172645463325252ul;

static unsigned long dice(unsigned long sides)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % sides;
}

static size_t random_text(char *text)
{
    static const char letters[] = "aAbB \t\n\r.,";
    size_t length = dice(TEXT_MAX);
    for (size_t i = 0; i < length; i++)
        text[i] = letters[dice(sizeof letters - 1)];
    text[length] = '\0';
    return length;
}

static void expect(int holds, const char *what, const char *text)
{
    if (holds)
        return;
    fprintf(stderr, "%s does not hold for: %s\n", what, text);
    exit(1);
}

static struct tally whole(const char *text, size_t length)
{
    struct tally counts = {0};
    tally_feed(&counts, text, length);
    return counts;
}

static void suite_count(const char *text, size_t length)
{
    static char copy[TEXT_MAX + 1];
    unsigned long words = 0, lines = 0;
    memcpy(copy, text, length + 1);
    for (char *word = strtok(copy, " \t\n\v\f\r"); word; word = strtok(NULL, " \t\n\v\f\r"))
        words++;
    for (size_t i = 0; i < length; i++)
        lines += text[i] == '\n';
    struct tally counts = whole(text, length);
    expect(counts.words == words, "words as strtok finds them", text);
    expect(counts.lines == lines && counts.bytes == length, "lines and bytes", text);
}

static void suite_split(const char *text, size_t length)
{
    struct tally counts = {0}, once = whole(text, length);
    for (size_t at = 0; at < length;) {
        size_t piece = 1 + dice(length - at);
        tally_feed(&counts, text + at, piece);
        at += piece;
    }
    expect(counts.words == once.words && counts.lines == once.lines, "pieces count like the whole", text);
}

static void suite_top(const char *text, size_t length)
{
    struct tally_entry entries[TEXT_MAX];
    long found = tally_top(text, length, entries, TEXT_MAX);
    unsigned long times = 0;
    expect(found >= 0, "there is memory", text);
    for (long i = 0; i < found; i++) {
        times += entries[i].times;
        if (i == 0)
            continue;
        expect(entries[i - 1].times >= entries[i].times, "the most frequent first", text);
        int by_name = entries[i - 1].times > entries[i].times || strcmp(entries[i - 1].word, entries[i].word) < 0;
        expect(by_name, "equally frequent ones by name, each once", text);
    }
    expect(times == whole(text, length).words, "the frequencies add up to the words", text);
    tally_top_free(entries, found);
}

static void suite_edges(const char *text, size_t length)
{
    struct tally counts = {0};
    tally_feed(&counts, text, 0);
    expect(counts.words == 0 && counts.bytes == 0, "nothing counts nothing", "");
    struct tally_entry one;
    long found = tally_top(text, length, &one, 1);
    expect(found == (whole(text, length).words > 0), "at most what is wanted", text);
    tally_top_free(&one, found);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*check)(const char *, size_t);
    } suites[] = {{"count", suite_count}, {"split", suite_split}, {"top", suite_top}, {"edges", suite_edges}};
    static const char *fixed[] = {"", " ", "\n", "word", " word ", "a b", "a\nb\n", "\t\r\n", "The the THE"};
    static char text[TEXT_MAX + 1];
    for (size_t s = 0; argc == 3 && s < sizeof suites / sizeof *suites; s++) {
        if (strcmp(argv[1], suites[s].name) != 0)
            continue;
        for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
            suites[s].check(fixed[i], strlen(fixed[i]));
        long rounds = atol(argv[2]);
        for (long round = 0; round < rounds; round++) {
            size_t length = random_text(text);
            suites[s].check(text, length);
        }
        printf("%s: %ld random texts and %zu fixed ones hold\n", argv[1], rounds, sizeof fixed / sizeof *fixed);
        return 0;
    }
    fputs("usage: unit count|split|top|edges ROUNDS\n", stderr);
    return 2;
}
