/* A Cortex-M4 that learns: what runs under QEMU in test_export_c.py.
 *
 * No C library starts it up. It takes STEPS steps on samples.h's samples in turn, and prints through
 * the debugger (ARM's semihosting), as hexadecimal words: each step's loss, the state, each sample's
 * outputs and the return values of forwardly_predict, then the losses of what must be refused.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "forwardly_step.h"
#include "samples.h"

extern uint32_t stack_top[];

static uint32_t call_debugger(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(uint32_t word)
{
    char text[10];
    for (int i = 0; i < 8; i++) {
        text[i] = "0123456789abcdef"[word >> (28 - 4 * i) & 15];
    }
    text[8] = '\n';
    text[9] = '\0';
    call_debugger(0x04, text);
}

static void print_float(float number)
{
    uint32_t word;
    memcpy(&word, &number, sizeof word);
    print(word);
}

int main(void)
{
    forwardly_reset();
    for (int step = 0; step < STEPS; step++) {
        print_float(forwardly_train(samples[step % SAMPLES], targets[step % SAMPLES]));
    }
    const float *numbers = (const float *)(const void *)forwardly_state();
    for (size_t i = 0; i < sizeof(struct forwardly_state) / sizeof(float); i++) {
        print_float(numbers[i]);
    }
    for (int i = 0; i < SAMPLES; i++) {
        float output[FORWARDLY_OUTPUTS];
        print((uint32_t)forwardly_predict(samples[i], output));
        for (int j = 0; j < FORWARDLY_OUTPUTS; j++) {
            print_float(output[j]);
        }
    }
    float broken[FORWARDLY_INPUTS];
    memcpy(broken, samples[0], sizeof broken);
    broken[0] = NAN;
    print_float(forwardly_train(broken, targets[0]));
    print((uint32_t)forwardly_predict(broken, NULL));
    return 0;
}

void start(void)
{
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* the floating-point unit on */
    __asm__ volatile("dsb\n isb");
    main();
    call_debugger(0x18, (const void *)0x20026); /* exit */
    for (;;) {
    }
}

/* What the processor reads first: where the stack begins, and where to start. */
__attribute__((section(".vectors"), used)) static const struct {
    const uint32_t *stack;
    void (*start)(void);
} vectors = {stack_top, start};
