/*
 * CPU models: what CPUID says of processors of that kind. Facts from the vendors' data sheets and from
 * dumps of CPUID. A later version of a model is written as its difference from an earlier row.
 */
#include "cpu/x86/sys.h"

const X86Model x86_models[] = {
    { .name = "486-v1",
      .vendor = "GenuineIntel", .model_name = "",
      .level = 1, .xlevel = 0x0, .family = 4, .model = 8, .stepping = 0,
      .flags = "fpu pse hypervisor" },
    { .name = "athlon-v1",
      .vendor = "AuthenticAMD", .model_name = "QEMU Virtual CPU version 2.5+",
      .level = 2, .xlevel = 0x80000008, .family = 6, .model = 2, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr sse "
               "sse2 hypervisor mmxext 3dnowext 3dnow" },
    { .name = "Broadwell-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Core Processor (Broadwell)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 61, .stepping = 2,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe "
               "popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
               "smep bmi2 erms invpcid rtm rdseed adx smap syscall nx rdtscp lm lahf-lm abm "
               "3dnowprefetch xsaveopt arat" },
    { .name = "Broadwell-v2", .alias = "Broadwell-noTSX", .like = "Broadwell-v1",
      .model_name = "Intel Core Processor (Broadwell, no TSX)",
      .flags = "-hle -rtm" },
    { .name = "Broadwell-v3", .alias = "Broadwell-IBRS", .like = "Broadwell-v2",
      .model_name = "Intel Core Processor (Broadwell, IBRS)",
      .flags = "hle rtm spec-ctrl" },
    { .name = "Broadwell-v4", .alias = "Broadwell-noTSX-IBRS", .like = "Broadwell-v3",
      .model_name = "Intel Core Processor (Broadwell, no TSX, IBRS)",
      .flags = "-hle -rtm" },
    { .name = "Cascadelake-Server-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Xeon Processor (Cascadelake)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 85, .stepping = 6,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe "
               "popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
               "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb "
               "avx512cd avx512bw avx512vl pku avx512vnni spec-ctrl ssbd syscall nx pdpe1gb "
               "rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt xsavec xgetbv1 arat" },
    { .name = "Cascadelake-Server-v2", .like = "Cascadelake-Server-v1",
      .desc = "Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES]",
      .flags = "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no" },
    { .name = "Cascadelake-Server-v3", .alias = "Cascadelake-Server-noTSX", .like = "Cascadelake-Server-v2",
      .desc = "Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES, no TSX]",
      .flags = "-hle -rtm" },
    { .name = "Cascadelake-Server-v4", .like = "Cascadelake-Server-v3",
      .desc = "Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES, EPT switching, no TSX]",
      .flags = "" },
    { .name = "Cascadelake-Server-v5", .like = "Cascadelake-Server-v4",
      .desc = "Intel Xeon Processor (Cascadelake) [ARCH_CAPABILITIES, EPT switching, XSAVES, no TSX]",
      .flags = "xsaves" },
    { .name = "Conroe-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Celeron_4x0 (Conroe/Merom Class Core 2)",
      .level = 10, .xlevel = 0x80000008, .family = 6, .model = 15, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni ssse3 hypervisor syscall nx lm lahf-lm" },
    { .name = "Cooperlake-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Xeon Processor (Cooperlake)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 85, .stepping = 10,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe "
               "popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
               "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb "
               "avx512cd avx512bw avx512vl pku avx512vnni spec-ctrl stibp arch-capabilities ssbd "
               "avx512-bf16 syscall nx pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt "
               "xsavec xgetbv1 arat rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no "
               "taa-no" },
    { .name = "Cooperlake-v2", .like = "Cooperlake-v1",
      .desc = "Intel Xeon Processor (Cooperlake) [XSAVES]",
      .flags = "xsaves" },
    { .name = "core2duo-v1",
      .vendor = "GenuineIntel", .model_name = "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz",
      .level = 10, .xlevel = 0x80000008, .family = 6, .model = 15, .stepping = 11,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush acpi "
               "mmx fxsr sse sse2 ss pni monitor ssse3 cx16 hypervisor syscall nx lm lahf-lm" },
    { .name = "coreduo-v1",
      .vendor = "GenuineIntel", .model_name = "Genuine Intel(R) CPU           T2600  @ 2.16GHz",
      .level = 10, .xlevel = 0x80000008, .family = 6, .model = 14, .stepping = 8,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush acpi mmx "
               "fxsr sse sse2 ss pni monitor hypervisor nx" },
    { .name = "Denverton-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Atom Processor (Denverton)",
      .level = 21, .xlevel = 0x80000008, .family = 6, .model = 95, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt "
               "tsc-deadline aes xsave rdrand hypervisor fsgsbase smep erms mpx rdseed smap "
               "clflushopt sha-ni spec-ctrl arch-capabilities ssbd syscall nx pdpe1gb rdtscp lm "
               "lahf-lm 3dnowprefetch xsaveopt xsavec xgetbv1 arat rdctl-no skip-l1dfl-vmentry" },
    { .name = "Denverton-v2", .like = "Denverton-v1",
      .desc = "Intel Atom Processor (Denverton) [no MPX, no MONITOR]",
      .flags = "-monitor -mpx" },
    { .name = "Denverton-v3", .like = "Denverton-v2",
      .desc = "Intel Atom Processor (Denverton) [XSAVES, no MPX, no MONITOR]",
      .flags = "xsaves" },
    { .name = "Dhyana-v1",
      .vendor = "HygonGenuine", .model_name = "Hygon Dhyana Processor",
      .level = 13, .xlevel = 0x8000001e, .family = 24, .model = 0, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt xsave avx "
               "f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt "
               "syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a "
               "misalignsse 3dnowprefetch osvw topoext ibpb xsaveopt xsavec xgetbv1 arat npt "
               "nrip-save" },
    { .name = "Dhyana-v2", .like = "Dhyana-v1",
      .desc = "Hygon Dhyana Processor [XSAVES]",
      .flags = "xsaves" },
    { .name = "EPYC-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD EPYC Processor",
      .level = 13, .xlevel = 0x8000001e, .family = 23, .model = 1, .stepping = 2,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt "
               "aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx "
               "smap clflushopt sha-ni syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm "
               "cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext xsaveopt xsavec "
               "xgetbv1 arat npt nrip-save" },
    { .name = "EPYC-v2", .alias = "EPYC-IBPB", .like = "EPYC-v1",
      .model_name = "AMD EPYC Processor (with IBPB)",
      .flags = "ibpb" },
    { .name = "EPYC-v3", .like = "EPYC-v2",
      .model_name = "AMD EPYC Processor",
      .flags = "perfctr-core clzero xsaveerptr xsaves" },
    { .name = "EPYC-Milan-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD EPYC-Milan Processor",
      .level = 13, .xlevel = 0x8000001e, .family = 25, .model = 1, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq monitor ssse3 fma cx16 pcid sse4.1 sse4.2 movbe "
               "popcnt aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 erms "
               "invpcid rdseed adx smap clflushopt clwb sha-ni umip pku rdpid fsrm syscall nx "
               "mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a misalignsse "
               "3dnowprefetch osvw topoext perfctr-core clzero xsaveerptr wbnoinvd ibpb ibrs "
               "amd-stibp amd-ssbd xsaveopt xsavec xgetbv1 xsaves arat npt nrip-save "
               "svme-addr-chk" },
    { .name = "EPYC-Rome-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD EPYC-Rome Processor",
      .level = 13, .xlevel = 0x8000001e, .family = 23, .model = 49, .stepping = 0,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq monitor ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt "
               "aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx "
               "smap clflushopt clwb sha-ni umip rdpid syscall nx mmxext fxsr-opt pdpe1gb rdtscp "
               "lm lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext "
               "perfctr-core clzero xsaveerptr wbnoinvd ibpb amd-stibp xsaveopt xsavec xgetbv1 "
               "xsaves arat npt nrip-save" },
    { .name = "EPYC-Rome-v2", .like = "EPYC-Rome-v1",
      .flags = "ibrs amd-ssbd" },
    { .name = "Haswell-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Core Processor (Haswell)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 60, .stepping = 4,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe "
               "popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
               "smep bmi2 erms invpcid rtm syscall nx rdtscp lm lahf-lm abm xsaveopt arat" },
    { .name = "Haswell-v2", .alias = "Haswell-noTSX", .like = "Haswell-v1", .stepping = 0x1,
      .model_name = "Intel Core Processor (Haswell, no TSX)",
      .flags = "-hle -rtm" },
    { .name = "Haswell-v3", .alias = "Haswell-IBRS", .like = "Haswell-v2", .stepping = 0x4,
      .model_name = "Intel Core Processor (Haswell, IBRS)",
      .flags = "hle rtm spec-ctrl" },
    { .name = "Haswell-v4", .alias = "Haswell-noTSX-IBRS", .like = "Haswell-v3", .stepping = 0x1,
      .model_name = "Intel Core Processor (Haswell, no TSX, IBRS)",
      .flags = "-hle -rtm" },
    { .name = "Icelake-Server-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Xeon Processor (Icelake)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 134, .stepping = 0,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe "
               "popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
               "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb "
               "avx512cd avx512bw avx512vl avx512vbmi umip pku avx512vbmi2 gfni vaes vpclmulqdq "
               "avx512vnni avx512bitalg avx512-vpopcntdq la57 spec-ctrl ssbd syscall nx pdpe1gb "
               "rdtscp lm lahf-lm abm 3dnowprefetch wbnoinvd xsaveopt xsavec xgetbv1 arat" },
    { .name = "Icelake-Server-v2", .alias = "Icelake-Server-noTSX", .like = "Icelake-Server-v1",
      .desc = "Intel Xeon Processor (Icelake) [no TSX]",
      .flags = "-hle -rtm" },
    { .name = "Icelake-Server-v3", .like = "Icelake-Server-v2",
      .flags = "arch-capabilities rdctl-no ibrs-all skip-l1dfl-vmentry mds-no pschange-mc-no "
               "taa-no" },
    { .name = "Icelake-Server-v4", .like = "Icelake-Server-v3", .model = 0x6a,
      .flags = "avx512ifma sha-ni rdpid fsrm" },
    { .name = "Icelake-Server-v5", .like = "Icelake-Server-v4",
      .desc = "Intel Xeon Processor (Icelake) [XSAVES]",
      .flags = "xsaves" },
    { .name = "Icelake-Server-v6", .like = "Icelake-Server-v5",
      .desc = "Intel Xeon Processor (Icelake) [5-level EPT]",
      .flags = "" },
    { .name = "IvyBridge-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Xeon E3-12xx v2 (Ivy Bridge)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 58, .stepping = 9,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline "
               "aes xsave avx f16c rdrand hypervisor fsgsbase smep erms syscall nx rdtscp lm "
               "lahf-lm xsaveopt arat" },
    { .name = "IvyBridge-v2", .alias = "IvyBridge-IBRS", .like = "IvyBridge-v1",
      .model_name = "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)",
      .flags = "spec-ctrl" },
    { .name = "KnightsMill-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Xeon Phi Processor (Knights Mill)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 133, .stepping = 0,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 ss pni pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 x2apic movbe popcnt "
               "tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 "
               "erms avx512f rdseed adx avx512pf avx512er avx512cd avx512-vpopcntdq "
               "avx512-4vnniw avx512-4fmaps syscall nx pdpe1gb rdtscp lm lahf-lm abm "
               "3dnowprefetch xsaveopt arat" },
    { .name = "kvm32-v1",
      .vendor = "GenuineIntel", .model_name = "Common 32-bit KVM processor",
      .level = 5, .xlevel = 0x80000008, .family = 15, .model = 6, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni hypervisor" },
    { .name = "kvm64-v1",
      .vendor = "GenuineIntel", .model_name = "Common KVM processor",
      .level = 13, .xlevel = 0x80000008, .family = 15, .model = 6, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni cx16 hypervisor syscall nx lm" },
    { .name = "n270-v1",
      .vendor = "GenuineIntel", .model_name = "Intel(R) Atom(TM) CPU N270   @ 1.60GHz",
      .level = 10, .xlevel = 0x80000008, .family = 6, .model = 28, .stepping = 2,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush acpi mmx "
               "fxsr sse sse2 ss pni monitor ssse3 movbe hypervisor nx lahf-lm" },
    { .name = "Nehalem-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Core i7 9xx (Nehalem Class Core i7)",
      .level = 11, .xlevel = 0x80000008, .family = 6, .model = 26, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni ssse3 cx16 sse4.1 sse4.2 popcnt hypervisor syscall nx lm "
               "lahf-lm" },
    { .name = "Nehalem-v2", .alias = "Nehalem-IBRS", .like = "Nehalem-v1",
      .model_name = "Intel Core i7 9xx (Nehalem Core i7, IBRS update)",
      .flags = "spec-ctrl" },
    { .name = "Opteron_G1-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD Opteron 240 (Gen 1 Class Opteron)",
      .level = 5, .xlevel = 0x80000008, .family = 15, .model = 6, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni hypervisor syscall nx lm" },
    { .name = "Opteron_G2-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD Opteron 22xx (Gen 2 Class Opteron)",
      .level = 5, .xlevel = 0x8000000a, .family = 15, .model = 6, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni cx16 hypervisor syscall nx lm lahf-lm svm" },
    { .name = "Opteron_G3-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD Opteron 23xx (Gen 3 Class Opteron)",
      .level = 5, .xlevel = 0x8000000a, .family = 16, .model = 2, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni monitor cx16 popcnt hypervisor syscall nx rdtscp lm lahf-lm "
               "svm abm sse4a misalignsse" },
    { .name = "Opteron_G4-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD Opteron 62xx class CPU",
      .level = 13, .xlevel = 0x8000001a, .family = 21, .model = 1, .stepping = 2,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes xsave avx "
               "hypervisor syscall nx pdpe1gb rdtscp lm lahf-lm svm abm sse4a misalignsse "
               "3dnowprefetch xop fma4 npt nrip-save" },
    { .name = "Opteron_G5-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD Opteron 63xx class CPU",
      .level = 13, .xlevel = 0x8000001a, .family = 21, .model = 2, .stepping = 0,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 popcnt aes xsave avx "
               "f16c hypervisor syscall nx pdpe1gb rdtscp lm lahf-lm svm abm sse4a misalignsse "
               "3dnowprefetch xop fma4 tbm npt nrip-save" },
    { .name = "Penryn-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Core 2 Duo P9xxx (Penryn Class Core 2)",
      .level = 10, .xlevel = 0x80000008, .family = 6, .model = 23, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni ssse3 cx16 sse4.1 hypervisor syscall nx lm lahf-lm" },
    { .name = "pentium-v1",
      .vendor = "GenuineIntel", .model_name = "",
      .level = 1, .xlevel = 0x0, .family = 5, .model = 4, .stepping = 3,
      .flags = "fpu de pse tsc msr mce cx8 apic mmx hypervisor" },
    { .name = "pentium2-v1",
      .vendor = "GenuineIntel", .model_name = "",
      .level = 2, .xlevel = 0x0, .family = 6, .model = 5, .stepping = 2,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr "
               "hypervisor" },
    { .name = "pentium3-v1",
      .vendor = "GenuineIntel", .model_name = "",
      .level = 3, .xlevel = 0x0, .family = 6, .model = 7, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr sse "
               "hypervisor" },
    { .name = "phenom-v1",
      .vendor = "AuthenticAMD", .model_name = "AMD Phenom(tm) 9550 Quad-Core Processor",
      .level = 5, .xlevel = 0x8000001a, .family = 16, .model = 2, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni monitor cx16 popcnt hypervisor syscall nx mmxext fxsr-opt "
               "pdpe1gb rdtscp lm 3dnowext 3dnow lahf-lm svm abm sse4a npt" },
    { .name = "qemu32-v1",
      .vendor = "GenuineIntel", .model_name = "QEMU Virtual CPU version 2.5+",
      .level = 4, .xlevel = 0x80000004, .family = 6, .model = 6, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep pge cmov pat mmx fxsr sse sse2 pni "
               "hypervisor" },
    { .name = "qemu64-v1",
      .vendor = "AuthenticAMD", .model_name = "QEMU Virtual CPU version 2.5+",
      .level = 13, .xlevel = 0x8000000a, .family = 15, .model = 107, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni cx16 hypervisor syscall nx lm lahf-lm svm" },
    { .name = "SandyBridge-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Xeon E312xx (Sandy Bridge)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 42, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic popcnt tsc-deadline "
               "aes xsave avx hypervisor syscall nx rdtscp lm lahf-lm xsaveopt arat" },
    { .name = "SandyBridge-v2", .alias = "SandyBridge-IBRS", .like = "SandyBridge-v1",
      .model_name = "Intel Xeon E312xx (Sandy Bridge, IBRS update)",
      .flags = "spec-ctrl" },
    { .name = "Skylake-Client-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Core Processor (Skylake)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 94, .stepping = 3,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe "
               "popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
               "smep bmi2 erms invpcid rtm rdseed adx smap syscall nx rdtscp lm lahf-lm abm "
               "3dnowprefetch xsaveopt xsavec xgetbv1 arat" },
    { .name = "Skylake-Client-v2", .alias = "Skylake-Client-IBRS", .like = "Skylake-Client-v1",
      .model_name = "Intel Core Processor (Skylake, IBRS)",
      .flags = "spec-ctrl" },
    { .name = "Skylake-Client-v3", .alias = "Skylake-Client-noTSX-IBRS", .like = "Skylake-Client-v2",
      .model_name = "Intel Core Processor (Skylake, IBRS, no TSX)",
      .flags = "-hle -rtm" },
    { .name = "Skylake-Client-v4", .like = "Skylake-Client-v3",
      .desc = "Intel Core Processor (Skylake, IBRS, no TSX) [IBRS, XSAVES, no TSX]",
      .flags = "xsaves" },
    { .name = "Skylake-Server-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Xeon Processor (Skylake)",
      .level = 13, .xlevel = 0x80000008, .family = 6, .model = 85, .stepping = 4,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 pcid sse4.1 sse4.2 x2apic movbe "
               "popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
               "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb "
               "avx512cd avx512bw avx512vl pku syscall nx pdpe1gb rdtscp lm lahf-lm abm "
               "3dnowprefetch xsaveopt xsavec xgetbv1 arat" },
    { .name = "Skylake-Server-v2", .alias = "Skylake-Server-IBRS", .like = "Skylake-Server-v1",
      .model_name = "Intel Xeon Processor (Skylake, IBRS)",
      .flags = "spec-ctrl -clflushopt" },
    { .name = "Skylake-Server-v3", .alias = "Skylake-Server-noTSX-IBRS", .like = "Skylake-Server-v2",
      .model_name = "Intel Xeon Processor (Skylake, IBRS, no TSX)",
      .flags = "-hle -rtm" },
    { .name = "Skylake-Server-v4", .like = "Skylake-Server-v3",
      .desc = "Intel Xeon Processor (Skylake, IBRS, no TSX) [IBRS, EPT switching, no TSX]",
      .flags = "" },
    { .name = "Skylake-Server-v5", .like = "Skylake-Server-v4",
      .desc = "Intel Xeon Processor (Skylake, IBRS, no TSX) [IBRS, XSAVES, EPT switching, no TSX]",
      .flags = "xsaves" },
    { .name = "Snowridge-v1",
      .vendor = "GenuineIntel", .model_name = "Intel Atom Processor (SnowRidge)",
      .level = 27, .xlevel = 0x80000008, .family = 6, .model = 134, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq monitor ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt "
               "tsc-deadline aes xsave rdrand hypervisor fsgsbase smep erms mpx rdseed smap "
               "clflushopt clwb sha-ni umip gfni cldemote movdiri movdir64b spec-ctrl "
               "arch-capabilities core-capability ssbd syscall nx pdpe1gb rdtscp lm lahf-lm "
               "3dnowprefetch xsaveopt xsavec xgetbv1 arat" },
    { .name = "Snowridge-v2", .like = "Snowridge-v1",
      .model_name = "Intel Atom Processor (Snowridge, no MPX)",
      .flags = "-mpx" },
    { .name = "Snowridge-v3", .like = "Snowridge-v2",
      .desc = "Intel Atom Processor (Snowridge, no MPX) [XSAVES, no MPX]",
      .flags = "xsaves" },
    { .name = "Snowridge-v4", .like = "Snowridge-v3",
      .desc = "Intel Atom Processor (Snowridge, no MPX) [no split lock detect, no core-capability]",
      .flags = "-core-capability" },
    { .name = "Westmere-v1",
      .vendor = "GenuineIntel", .model_name = "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
      .level = 11, .xlevel = 0x80000008, .family = 6, .model = 44, .stepping = 1,
      .flags = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "
               "fxsr sse sse2 pni pclmulqdq ssse3 cx16 sse4.1 sse4.2 popcnt aes hypervisor "
               "syscall nx lm lahf-lm arat" },
    { .name = "Westmere-v2", .alias = "Westmere-IBRS", .like = "Westmere-v1",
      .model_name = "Westmere E56xx/L56xx/X56xx (IBRS update)",
      .flags = "spec-ctrl" },
    { .name = NULL },
};
