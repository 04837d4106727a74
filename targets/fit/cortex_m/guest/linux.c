/* Start under qemu-arm, which emulates Linux: arguments lie on the stack. */
int run(int, char **);
__asm__(".syntax unified\n.thumb\n.global _start\n.thumb_func\n_start:\n ldr r0, [sp]\n add r1, sp, #4\n bl run\n"
        " movs r7, #1\n svc #0\n");
