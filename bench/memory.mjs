export async function runMemory() {}
