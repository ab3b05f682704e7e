/** The page of a workflow in Temporal's Web UI 2.54, as a reader uses it. */
import type { Page } from './page.ts';

export type Panel = 'Input' | 'Result';

const panels = { Input: 1, Result: 2 } as const;

export async function openWorkflow(
  page: Page,
  uiUrl: string,
  { namespace, workflowId, runId }: { readonly namespace: string; readonly workflowId: string; readonly runId: string },
): Promise<void> {
  await page.open(`${uiUrl}/namespaces/${namespace}/workflows/${workflowId}/${runId}/history`);
  // another page, with the old one's script gone
  await page.shows(
    `the workflow ${workflowId}`,
    `location.href.includes('${workflowId}') && ${panel('Result')} !== null`,
  );
}

/** Resolves with the panel's text once it has this in it. */
export function panelSays(page: Page, title: Panel, text: string): Promise<string> {
  const isThere = `${panel(title)}?.innerText.includes(${JSON.stringify(text)}) && ${panel(title)}.innerText`;
  return page.shows(`${JSON.stringify(text)} in the panel ${title}`, isThere);
}

/** Presses the button that fetches what a reference stands for. It is named after the size: `293.03 KB`. */
export async function pressDownload(page: Page, title: Panel): Promise<void> {
  const button = `[...${panel(title)}?.querySelectorAll('button') ?? []].find((one) => / [KM]?B$/.test(one.innerText.trim()))`;
  await page.shows(`a download button that can be pressed in the panel ${title}`, `${button}?.disabled === false`);
  await page.evaluate(`${button}.click()`);
}

/** What the UI says of the codec server, behind the glasses at the top. */
export function codecStatus(page: Page, status: 'success' | 'error'): Promise<string> {
  const icon = `document.querySelector('[data-testid="data-encoder-status-${status}"]')`;
  return page.shows(`the codec server's status ${status}`, `${icon}?.getAttribute('aria-label') || ${icon}?.innerText`);
}

/** As people set it in `Codec Server` for their own browser. */
export async function useCodecServer(page: Page, uiUrl: string, endpoint: string): Promise<void> {
  await page.open(uiUrl);
  await page.shows('the application', `location.origin === '${uiUrl}' && document.querySelector('nav') !== null`);
  await page.evaluate(`localStorage.setItem('endpoint', ${JSON.stringify(JSON.stringify(endpoint))});
    localStorage.setItem('overrideRemoteCodecConfiguration', 'true')`);
}

function panel(title: Panel): string {
  return `document.querySelector('[data-testid="input-and-result"] > div:nth-child(${panels[title]})')`;
}
