/* Enters the kernel by the call tables of other architectures: i386 (int 0x80) and x32.
 *
 * Each tries to make a directory and asks for its own pid; prints both results (minus the error number). The last
 * line does the same by the machine's own table. x86_64 only.
 * Usage: foreign_calls DIRECTORY
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static long i386_call(long number, long a, long b)
{
    long result;

    /* The upper half of r8 to r11 is lost on this way into the kernel. */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static long native_call(long number, long a, long b)
{
    long result;

    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "memory", "rcx", "r11");
    return result;
}

int main(int argc, char **argv)
{
    char *low;
    const long x32 = 0x40000000;

    if (argc != 2 || strlen(argv[1]) > 4000)
        return 2;
    /* i386 sees the lower four gigabytes only. */
    low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED)
        return 2;
    sprintf(low, "%s/i386", argv[1]);
    printf("i386 mkdir %ld getpid %ld\n", i386_call(39, (long)low, 0700), i386_call(20, 0, 0));
    sprintf(low, "%s/x32", argv[1]);
    printf("x32 mkdir %ld getpid %ld\n", native_call(x32 | 83, (long)low, 0700), native_call(x32 | 39, 0, 0));
    sprintf(low, "%s/native", argv[1]);
    printf("native mkdir %ld getpid %ld own %d\n", native_call(83, (long)low, 0700), native_call(39, 0, 0), getpid());
    return 0;
}
