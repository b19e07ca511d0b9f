/* Makes system calls as it is told, and says what each of them returned.
 *
 * Usage: file_calls [UID] < SCRIPT; with UID it gives up all rights but that user's first.
 *
 * One call a line: its number and up to six arguments, separated by tabs. An argument is
 *   iN  a number           n  a null pointer        bHEX  a pointer to these bytes
 *   sTEXT  a path          uTEXT  a struct sockaddr_un with that path
 *   rN  what line N returned                        xHEX  a struct xattr_args with these bytes as its value
 * In a path, %N% is what line N returned. For each line the error number is written, 0 for success.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINES = 64, LONGEST = 16384 };

static long returned[LINES];

static char *filled_in(const char *text)
{
    char *made = calloc(1, LONGEST), *end = made, *after;

    while (*text) {
        if (*text == '%') {
            end += sprintf(end, "%ld", returned[strtol(text + 1, &after, 10) % LINES]);
            text = after + 1;
        } else {
            *end++ = *text++;
        }
    }
    return made;
}

static unsigned char *from_hex(const char *text, size_t *size)
{
    unsigned char *made = calloc(1, strlen(text) / 2 + 1);
    unsigned int byte;

    for (*size = 0; sscanf(text + 2 * *size, "%2x", &byte) == 1; ++*size)
        made[*size] = byte;
    return made;
}

static long argument(const char *text)
{
    struct { uint64_t value; uint32_t size, flags; } *attribute;
    struct sockaddr_un *address;
    size_t size;

    switch (*text++) {
    case 'i':
        return strtol(text, NULL, 10);
    case 'r':
        return returned[strtol(text, NULL, 10) % LINES];
    case 's':
        return (long)filled_in(text);
    case 'b':
        return (long)from_hex(text, &size);
    case 'u':
        address = calloc(1, sizeof(*address));
        address->sun_family = AF_UNIX;
        strncpy(address->sun_path, filled_in(text), sizeof(address->sun_path) - 1);
        return (long)address;
    case 'x':
        attribute = calloc(1, sizeof(*attribute));
        attribute->value = (uintptr_t)from_hex(text, &size);
        attribute->size = size;
        return (long)attribute;
    default:
        return 0;
    }
}

int main(int argc, char **argv)
{
    static char line[LONGEST];

    if (argc > 1) {
        uid_t user = strtoul(argv[1], NULL, 10);
        if (setgroups(0, NULL) || setresgid(user, user, user) || setresuid(user, user, user))
            return 1;
    }
    for (int number = 0; number < LINES && fgets(line, sizeof(line), stdin); ++number) {
        long words[7] = {0};
        char *rest = line, *word;

        line[strcspn(line, "\n")] = 0;
        for (int place = 0; place < 7 && (word = strsep(&rest, "\t")); ++place)
            words[place] = place ? argument(word) : strtol(word, NULL, 10);
        returned[number] = syscall(words[0], words[1], words[2], words[3], words[4], words[5], words[6]);
        printf("%d\n", returned[number] < 0 ? errno : 0);
        fflush(stdout);
    }
    return 0;
}
